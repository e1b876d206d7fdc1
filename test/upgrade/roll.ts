/**
 * Versions of the broker replaced by one another under load, one process after the other.
 *
 * Method: a router, a delivery and a reaper process of the first version. Then, service by service,
 * a process of the next version starts beside the one that is there, new clients come to it, both
 * serve for a while, new connections are led to the next one, and the other is told to stop
 * (SIGTERM): its clients go on at the next one, until the next replacement. So each service of
 * either version works beside each of the other, and beside its like.
 *
 * At the end everything that was confirmed has come, and nothing twice unless it says so; by each
 * key in order, nothing before its delay was over; what failed each time is a dead letter, once.
 * Clients met nothing but connections that were closed, no process logged an error, every one
 * stopped in order, and the audit of each queue finds its counters right.
 */
import assert from 'node:assert/strict'
import type { TestContext } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { privateRedis, waitFor } from '@sluice/testkit'
import { auditAll } from '../support/audit.ts'
import { Vhost } from '../support/deployment.ts'
import { httpClient } from '../support/http.ts'
import { type ServiceProcess, startProcess } from '../support/processes.ts'
import { type Doors, startClients } from './clients.ts'
import { Ledger, QUEUES } from './ledger.ts'
import type { Version } from './version.ts'

const SERVICES = ['router', 'delivery', 'reaper'] as const
const VHOST = 'rolled'
/** A message whose lease lapses, or whose process is taken for dead, comes again before. */
const SETTLE_MS_MAX = 60_000
const ALARMING = /"level":"(error|fatal)"/

type Service = (typeof SERVICES)[number]

export interface RollOptions {
  /**
   * How long both processes of a service work side by side, and how long the clients of the one
   * that stopped go on at the other.
   */
  readonly loadMs: number
  /** Between one round of a publisher and the next. */
  readonly roundMs: number
}

/**
 * @param versions the first is there; each further one replaces the one before it.
 * @returns what was confirmed and came, in words.
 */
export async function roll(
  t: TestContext,
  [first, ...others]: readonly [Version, ...Version[]],
  { loadMs, roundMs }: RollOptions,
): Promise<string> {
  const { url } = await privateRedis(t)
  const broker = new Broker(t, url)
  await Promise.all(SERVICES.map((service) => broker.start(service, first)))
  const vhost = broker.vhost()
  await vhost.put('')
  for (const [queue, args] of Object.entries(QUEUES)) await vhost.queue(queue, args)
  const ledger = new Ledger()
  const come = (name: number) =>
    startClients({ name: `${name}`, vhost: VHOST, doors: broker.doors, ledger, roundMs })
  const all = [await come(0)]
  try {
    for (const version of others) {
      for (const service of SERVICES) {
        const next = broker.start(service, version)
        const [old] = await Promise.all([next, sleep(loadMs).then(() => all.at(-2)?.close())])
        all.push(await come(all.length))
        await sleep(loadMs)
        all.at(-2)?.turn(broker.doors)
        assert.equal(await old?.stop(), 0, `${old?.name} stopped in disorder`)
      }
    }
    await sleep(loadMs)
    await Promise.all(all.slice(-2).map((clients) => clients.stopPublishing()))
    await settled(vhost, ledger)
    for (const clients of all.slice(-2)) await clients.close()
    ledger.checkDead(await deadLetters(vhost))
    await broker.stop()
  } catch (cause) {
    const known = [...ledger.wrong, ...broker.complaints()].join('\n')
    throw new Error(`${cause}\nBesides:\n${known}`, { cause })
  } finally {
    for (const clients of all) await clients.abandon()
  }
  assert.deepEqual([...ledger.wrong, ...broker.complaints(), ...(await auditAll(url, VHOST))], [])
  assert(ledger.looked > 0, 'those who look on saw nothing')
  return ledger.summary()
}

/** Processes of either version: at rest one a service. */
class Broker {
  readonly #t: TestContext
  readonly #redisUrl: string
  readonly #all: ServiceProcess[] = []
  readonly #serving = new Map<Service, ServiceProcess>()

  constructor(t: TestContext, redisUrl: string) {
    this.#t = t
    this.#redisUrl = redisUrl
  }

  /** Starts one and lets it serve; returns which served before. */
  async start(service: Service, { name, main }: Version): Promise<ServiceProcess | undefined> {
    const next = await startProcess(this.#t, {
      redisUrl: this.#redisUrl,
      services: [service],
      env: { SLUICE_REAPER_PASS_MS: '200' },
      name: `${service} of ${name}`,
      ...(main !== undefined && { main }),
    })
    const old = this.#serving.get(service)
    this.#all.push(next)
    this.#serving.set(service, next)
    return old
  }

  get doors(): Doors {
    const router = this.#serving.get('router')!
    const delivery = this.#serving.get('delivery')!
    return {
      router: portOf(router.http),
      delivery: portOf(delivery.http),
      amqp: portOf(delivery.doors['amqp']!),
    }
  }

  vhost(): Vhost {
    const [router, delivery] = (['router', 'delivery'] as const).map((service) => {
      const client = httpClient(() => this.#serving.get(service)!.http)
      this.#t.after(() => client.close())
      return client
    })
    return new Vhost(VHOST, router!, delivery!)
  }

  async stop(): Promise<void> {
    for (const process of this.#serving.values()) assert.equal(await process.stop(), 0)
  }

  /** What its processes logged that nobody should have to read. */
  complaints(): string[] {
    return this.#all.flatMap(({ name, log }) => {
      const lines = log.split('\n').filter((line) => ALARMING.test(line))
      return lines.map((line) => `${name} logged ${line}`)
    })
  }
}

const portOf = (url: string) => Number(new URL(url).port)

/** Everything came, all that failed is dead, and nothing is left. */
async function settled(vhost: Vhost, ledger: Ledger): Promise<void> {
  const came = () => ledger.backlog === 0
  await waitFor(came, { what: 'all to come', timeoutMs: SETTLE_MS_MAX }).catch((cause) => {
    throw new Error(`Lost: ${ledger.missing}`, { cause })
  })
  for (const queue of Object.keys(QUEUES)) {
    const isEmpty = async () => Object.values(await vhost.counts(queue)).every((count) => !count)
    await waitFor(isEmpty, { what: `${queue} to be empty`, timeoutMs: SETTLE_MS_MAX })
  }
}

/** The bodies of all dead letters, page by page. */
async function deadLetters(vhost: Vhost): Promise<string[]> {
  const bodies: string[] = []
  for (let next: string | undefined = ''; next !== undefined; ) {
    const path = `/queues/amq.dead-letters/dead-letters?limit=500&after=${encodeURIComponent(next)}`
    const { status, json, text } = await vhost.delivery('GET', path)
    assert.equal(status, 200, text)
    for (const { body } of json.messages) bodies.push(body)
    next = json.next
  }
  return bodies
}
