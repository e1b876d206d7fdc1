/** What every service of a process shares: opened once, before anything runs, and closed last. */
import { setMaxListeners } from 'node:events'
import { type Config, maskedConfig } from '@sluice/config'
import type { Report } from '@sluice/core'
import type { Access, Credentials } from '@sluice/security'
import { type AuditLog, openStore, type Store } from '@sluice/store'
import { type Logger, type Metrics, reportTo, type Tracing } from '@sluice/telemetry'
import { openTopology, Publisher, type Topology } from '@sluice/topology'
import { type Encryption, openEncryption } from './encryption.ts'
import { observe, openTelemetry } from './observe.ts'
import { openAudit } from './open-audit.ts'
import { openCredentials } from './open-credentials.ts'
import { openTls, type Tls } from './tls.ts'

export interface Deps {
  readonly log: Logger
  readonly metrics: Metrics
  readonly tracing: Tracing
  /** Where errors go that no caller waits for. */
  readonly report: Report
  readonly credentials: Credentials
  /** What whoever they prove may do. */
  readonly access: Access
  /** Undefined without a certificate. */
  readonly tls: Tls | undefined
  /** Who did what, and who was refused. */
  readonly audit: AuditLog
  readonly store: Store
  /** The data keys of encrypted queues. */
  readonly encryption: Encryption
  readonly topology: Topology
  readonly publisher: Publisher
  /** Aborts when the process is told to stop. */
  readonly stopping: AbortSignal
  /** After everything else: what drains still settles through Redis. */
  close(): Promise<void>
}

interface DepsOptions {
  readonly stopping: AbortSignal
  /** Told of unexpected errors besides the log; tests fail on them. */
  readonly report?: Report
}

/** Throws one Error that says what to change when Redis or the data folder will not do. */
export async function openDeps(
  config: Config,
  { stopping, report: tell }: DepsOptions,
): Promise<Deps> {
  setMaxListeners(0, stopping) // a long poll each listens
  const { log, metrics, heard } = openTelemetry(config)
  const logged = reportTo(log)
  const report: Report = (error) => {
    logged(error)
    tell?.(error)
  }
  log.debug(maskedConfig(config), 'settings')
  const tls = openTls(config, log)
  const store = await openStore({
    url: config.redisUrl,
    caFile: config.redisCa,
    certFile: config.redisCert,
    keyFile: config.redisKey,
    report,
    durability: config.durability,
    memoryHigh: config.memoryHigh,
    allowEviction: config.allowEviction,
    ...heard,
  })
  try {
    for (const warning of store.warnings()) log.warn(warning)
    const topology = await openTopology(store, report, {
      deadLetterTtlMs: config.deadLetterRetentionMs,
    })
    const encryption = await openEncryption(config, { store, topology, log, report })
    const credentials = await openCredentials(config, { topology, store, report })
    const { access } = credentials
    const audit = openAudit(config, store, report)
    const observed = await observe(config, { log, metrics, store, topology, encryption })
    const { tracing } = observed
    const close = async () => {
      tls?.close()
      encryption.close()
      await observed.close()
      await topology.close()
      await audit.close()
      await store.close()
    }
    const publisher = new Publisher(topology, report, tracing)
    return {
      log,
      metrics,
      tracing,
      report,
      credentials,
      access,
      audit,
      tls,
      store,
      encryption,
      topology,
      publisher,
      stopping,
      close,
    }
  } catch (error) {
    await store.close()
    throw error
  }
}
