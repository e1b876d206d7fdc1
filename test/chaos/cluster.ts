/**
 * A broker as it is deployed, in small: two processes of each service and a Redis of their own,
 * with a wire that can be broken before each.
 */

import type { TestContext } from 'node:test'
import { type PrivateRedis, privateRedis } from '@sluice/testkit'
import { type HttpClient, httpClient } from '../support/http.ts'
import { type ServiceProcess, startProcess } from '../support/processes.ts'
import { type TcpProxy, tcpProxy } from '../support/tcp-proxy.ts'

/** One process, with the wires to Redis and from its clients. */
export interface Node {
  readonly process: ServiceProcess
  readonly redisWire: TcpProxy
  readonly httpWire: TcpProxy
  /** Undefined where it does not speak AMQP. */
  readonly amqpWire: TcpProxy | undefined
  readonly client: HttpClient
  /** Starts it again where it was: clients keep their address. */
  restart(): Promise<void>
}

export interface Cluster {
  readonly redis: PrivateRedis
  readonly nodes: readonly Node[]
  readonly routers: readonly HttpClient[]
  readonly doors: readonly HttpClient[]
  /** Ports of the wires to the AMQP doors. */
  readonly amqp: readonly number[]
  /** What a process did that no fault asked for. */
  readonly crashes: string[]
}

/** How long a process that is told to stop may finish what it holds. */
export const DRAIN_MS = 5_000

const SERVICES = ['router', 'delivery', 'reaper'] as const

export async function startCluster(t: TestContext, fsync: 'always' | 'everysec'): Promise<Cluster> {
  const redis = await privateRedis(t, { fsync })
  const crashes: string[] = []
  const names = SERVICES.flatMap((service) => [`${service} 1`, `${service} 2`])
  const starts = names.map((name) => startNode(t, name, redis.port, crashes))
  await Promise.allSettled(starts) // none may start while the test already ends
  const nodes = await Promise.all(starts)
  const clients = (service: string) =>
    nodes.filter(({ process }) => process.name.startsWith(service)).map(({ client }) => client)
  const amqp = nodes.flatMap(({ amqpWire }) => amqpWire?.port ?? [])
  return { redis, nodes, routers: clients('router'), doors: clients('delivery'), amqp, crashes }
}

async function startNode(
  t: TestContext,
  name: string,
  redisPort: number,
  crashes: string[],
): Promise<Node> {
  const redisWire = await tcpProxy(redisPort)
  const process = await startProcess(t, {
    name,
    services: [name.split(' ')[0]!],
    redisUrl: `redis://127.0.0.1:${redisWire.port}`,
    env: {
      SLUICE_REAPER_PASS_MS: '200',
      SLUICE_REAPER_SWEEP_MS: '5000',
      SLUICE_DRAIN_MS: `${DRAIN_MS}`,
    },
  })
  process.onCrash = (what) => crashes.push(what)
  const httpWire = await tcpProxy(portOf(process.http))
  const { amqp } = process.doors
  const amqpWire = amqp === undefined ? undefined : await tcpProxy(portOf(amqp))
  const client = httpClient(`http://127.0.0.1:${httpWire.port}`)
  t.after(async () => {
    client.close()
    await Promise.all([redisWire.close(), httpWire.close(), amqpWire?.close()])
  })
  const restart = async () => {
    await process.restart()
    httpWire.target = portOf(process.http)
    if (amqpWire) amqpWire.target = portOf(process.doors['amqp']!)
  }
  return { process, redisWire, httpWire, amqpWire, client, restart }
}

const portOf = (url: string) => Number(new URL(url).port)
