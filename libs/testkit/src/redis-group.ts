/**
 * Several Redis servers that stand in for each other, for one test: a primary with replicas watched
 * by sentinels, or a cluster. They fail over within seconds. Everybody reaches them through gates,
 * so that one can be cut off from the others.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { freePort } from './free-port.ts'
import { type Gate, Network } from './gate.ts'
import {
  launch,
  type PrivateRedis,
  type PrivateRedisOptions,
  privateRedis,
  type Scope,
} from './redis.ts'
import { waitFor } from './wait-for.ts'

export interface Member extends PrivateRedis {
  /** Where the group and its clients reach it; `redis` goes straight to the server. */
  readonly port: number
  /** No other server or sentinel reaches it, nor does it reach them; clients do. */
  cutOff(): void
  heal(): void
}

export interface RedisGroup {
  /** See parseRedisUrl in @sluice/core. */
  readonly url: string
  /** Servers that keep data; which of them are primaries changes. */
  readonly servers: readonly Member[]
  /** None in a cluster. */
  readonly sentinels: readonly PrivateRedis[]
  /** Those that are primaries at the moment, as the sentinels or most nodes see it. */
  primaries(): Promise<Member[]>
  /** The fewest replicas in step that one of them has. */
  replicas(): Promise<number>
  /** Resolves once every primary has its replicas in step, and everybody knows it. */
  whole(): Promise<void>
}

/** How soon a silent server counts as gone, ms. */
const DOWN_MS = 1_000
/** The same for sentinels: they ping once a second, and in less a ping is missed now and then. */
const SENTINEL_DOWN_MS = 2_000
const WHOLE_MS_MAX = 60_000
/** A server that is asked answers at once, or is not there. */
const ANSWER_MS_MAX = 500
const SENTINELS = 3
const MASTER = 'mymaster'
/** Replicas are in step soon after a test starts, and a lost primary is noticed soon. */
const QUICK = ['--repl-diskless-sync-delay', '0', '--repl-timeout', '5']

/** A primary with replicas, and three sentinels. */
export async function privateSentinel(
  t: Scope,
  { replicas: count = 2, ...options }: PrivateRedisOptions & { readonly replicas?: number } = {},
): Promise<RedisGroup> {
  const network = new Network()
  const servers: Member[] = []
  for (let left = 1 + count; left > 0; left--) {
    const follow = servers.map(({ port }) => ['--replicaof', `127.0.0.1 ${port}`]).slice(0, 1)
    servers.push(
      await joinNetwork(t, network, ({ port }, source) =>
        privateRedis(t, {
          ...options,
          args: [
            ...[...QUICK, ...follow.flat(), ...(options.args ?? [])],
            ...['--bind-source-addr', source, '--replica-announce-port', String(port)],
          ],
        }),
      ),
    )
  }
  const config = [
    `sentinel monitor ${MASTER} 127.0.0.1 ${servers[0]!.port} 2`,
    `sentinel down-after-milliseconds ${MASTER} ${SENTINEL_DOWN_MS}`,
    `sentinel failover-timeout ${MASTER} 3000`,
    `sentinel parallel-syncs ${MASTER} ${count}`,
    'sentinel announce-ip 127.0.0.1',
  ]
  const sentinels: PrivateRedis[] = []
  for (let left = SENTINELS; left > 0; left--) {
    const source = `bind-source-addr ${network.join()}`
    sentinels.push(await launch(t, ['--sentinel'], `${[...config, source].join('\n')}\n`))
  }
  const ask = (what: string) =>
    Promise.all(sentinels.map(({ redis }) => redis.call('SENTINEL', what, MASTER))) as Promise<
      unknown[][]
    >
  const primaries = async () => {
    const ports = (await ask('get-master-addr-by-name')).map(([, port]) => Number(port))
    if (new Set(ports).size > 1) return []
    return servers.filter(({ port }) => port === ports[0])
  }
  const replicas = () => fewestReplicas(primaries)
  const isWhole = async () => {
    const known = [...(await ask('sentinels')).map((list) => list.length === SENTINELS - 1)]
    known.push(...(await ask('replicas')).map((list) => list.length === count))
    return !known.includes(false) && (await replicas()) === count
  }
  const whole = () => until(isWhole)
  await whole()
  const hosts = sentinels.map(({ port }) => `127.0.0.1:${port}`).join(',')
  const url = `redis+sentinel://${hosts}/${MASTER}`
  return { url, servers, sentinels, primaries, replicas, whole }
}

/** Primaries with a replica each, the slots spread evenly. */
export async function privateCluster(
  t: Scope,
  { primaries: count = 3, ...options }: PrivateRedisOptions & { readonly primaries?: number } = {},
): Promise<RedisGroup> {
  const network = new Network()
  const servers: Member[] = []
  const buses: Gate[] = []
  for (let left = 2 * count; left > 0; left--) {
    servers.push(
      await joinNetwork(t, network, async ({ port }, source) => {
        const bus = await network.gate(t, source)
        buses.push(bus)
        // By itself it would be the port 10 000 above, where outgoing connections may be.
        bus.target = await freePort()
        return privateRedis(t, {
          ...options,
          args: [
            ...[...QUICK, '--cluster-enabled', 'yes', '--cluster-node-timeout', String(DOWN_MS)],
            ...['--cluster-port', String(bus.target), '--cluster-announce-ip', '127.0.0.1'],
            ...['--cluster-announce-port', String(port)],
            ...['--cluster-announce-bus-port', String(bus.port)],
            ...['--bind-source-addr', source, ...(options.args ?? [])],
          ],
        })
      }),
    )
  }
  const [first] = servers as [Member]
  const share = 16_384 / count
  for (const [index, { redis }] of servers.entries()) {
    await redis.cluster('SET-CONFIG-EPOCH', index + 1)
    if (index > 0) await redis.call('CLUSTER', 'MEET', '127.0.0.1', first.port, buses[0]!.port)
    if (index >= count) continue
    const [from, to] = [Math.ceil(index * share), Math.ceil((index + 1) * share) - 1]
    await redis.call('CLUSTER', 'ADDSLOTSRANGE', from, to)
  }
  for (const [index, { redis }] of servers.entries()) {
    if (index < count) continue
    const id = await servers[index - count]!.redis.cluster('MYID')
    await waitFor(async () => (await nodesOf(servers[index]!)).includes(String(id)))
    await redis.cluster('REPLICATE', String(id))
  }
  const own = async (server: PrivateRedis) => {
    const nodes = await answerOf(nodesOf(server))
    return nodes.split('\n').find((line) => line.includes('myself')) ?? ''
  }
  const primaries = async () => {
    const lines = await Promise.all(servers.map(own))
    return servers.filter((_, at) => / myself,master .* \d+(-\d+)?$/.test(` ${lines[at]}`))
  }
  const replicas = () => fewestReplicas(primaries)
  const isWhole = async () => {
    for (const server of servers) {
      const info = await answerOf(server.redis.cluster('INFO') as Promise<string>)
      const nodes = await answerOf(nodesOf(server))
      if (!info.includes('cluster_state:ok') || /^$|fail/.test(nodes)) return false
    }
    return (await primaries()).length === count && (await replicas()) === 1
  }
  const whole = () => until(isWhole)
  await whole()
  const hosts = servers.map(({ port }) => `127.0.0.1:${port}`).join(',')
  return { url: `redis+cluster://${hosts}`, servers, sentinels: [], primaries, replicas, whole }
}

/** A server behind a gate of the network. */
async function joinNetwork(
  t: Scope,
  network: Network,
  start: (gate: Gate, source: string) => Promise<PrivateRedis>,
): Promise<Member> {
  const source = network.join()
  const gate = await network.gate(t, source)
  const server = await start(gate, source)
  gate.target = server.port
  return {
    ...server,
    port: gate.port,
    kill9: async () => {
      await server.kill9()
      gate.close()
    },
    restart: async () => {
      gate.close() // where it still runs
      await server.restart()
      await gate.open()
    },
    cutOff: () => network.cutOff(source),
    heal: () => network.heal(source),
  }
}

/**
 * Moves a key's slot to another primary of a cluster, as a resharding does, while it is used.
 *
 * @param underWay waited for before each step; keys then move one by one.
 */
export async function moveSlot(
  { primaries }: RedisGroup,
  key: string,
  underWay?: () => Promise<void>,
): Promise<void> {
  const current = await primaries()
  const slot = Number(await current[0]!.redis.cluster('KEYSLOT', key))
  const keysOf = ({ redis }: PrivateRedis, count: number) =>
    redis.cluster('GETKEYSINSLOT', slot, count) as Promise<string[]>
  const counts = await Promise.all(current.map((server) => keysOf(server, 1)))
  const source = current[counts.findIndex((keys) => keys.length > 0)]
  if (source === undefined) throw new Error(`there is no key in slot ${slot}`)
  const target = current[(current.indexOf(source) + 1) % current.length]!
  const [from, to] = await Promise.all([source, target].map(({ redis }) => redis.cluster('MYID')))
  await target.redis.call('CLUSTER', 'SETSLOT', slot, 'IMPORTING', String(from))
  await source.redis.call('CLUSTER', 'SETSLOT', slot, 'MIGRATING', String(to))
  for (;;) {
    await underWay?.()
    const keys = await keysOf(source, underWay ? 1 : 10)
    if (keys.length === 0) break
    await source.redis.call('MIGRATE', '127.0.0.1', target.port, '', 0, 5_000, 'KEYS', ...keys)
  }
  for (const { redis } of [target, source]) {
    await redis.call('CLUSTER', 'SETSLOT', slot, 'NODE', String(to))
    await underWay?.()
  }
}

async function nodesOf({ redis }: PrivateRedis): Promise<string> {
  return String(await redis.cluster('NODES'))
}

/** '' from a server that is dead, or still starts. */
function answerOf(reply: Promise<string>): Promise<string> {
  const late = sleep(ANSWER_MS_MAX, '', { ref: false })
  return Promise.race([reply.catch(() => ''), late])
}

async function until(condition: () => Promise<boolean>): Promise<void> {
  await waitFor(condition, { what: 'replicas in step', timeoutMs: WHOLE_MS_MAX })
}

async function fewestReplicas(primaries: RedisGroup['primaries']): Promise<number> {
  const current = await primaries()
  if (current.length === 0) return 0
  return Math.min(...(await Promise.all(current.map(inStep))))
}

/** Replicas of a primary that have all it has. */
async function inStep({ redis }: PrivateRedis): Promise<number> {
  const info = await answerOf(redis.info('replication'))
  return (info.match(/state=online/g) ?? []).length
}
