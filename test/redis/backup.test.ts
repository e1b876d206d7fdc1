/**
 * What docs/backup.md says: copies made under a running broker, restored to a Redis of their own or
 * to the group they came from, and what a new broker finds there.
 */
import assert from 'node:assert/strict'
import {
  copyFileSync,
  cpSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, type TestContext, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import {
  type PrivateRedis,
  privateCluster,
  privateRedis,
  privateSentinel,
  waitFor,
} from '@sluice/testkit'
import { deploy, Vhost } from '../support/deployment.ts'

const ALL = ['router delivery reaper']
const COPIES = {
  async 'a snapshot'(from: string, to: string) {
    copyFile('dump.rdb', from, to)
  },
  async 'the AOF, cut at a time'(from: string, to: string, atS: number) {
    const folder = join(to, 'appendonlydir')
    cpSync(join(from, 'appendonlydir'), folder, { recursive: true })
    // As redis-check-aof --truncate-to-timestamp does, which is not everywhere.
    const [last] = readdirSync(folder).filter((file) => file.endsWith('.incr.aof'))
    const path = join(folder, last!)
    const text = readFileSync(path, 'latin1')
    const after = [...text.matchAll(/^#TS:(\d+)\r\n/gm)].find(([, second]) => Number(second) > atS)
    truncateSync(path, after!.index)
  },
}

// Side by side: most of the time they wait for time to pass.
describe('a copy is restored', { concurrency: true }, () => {
  for (const [name, copy] of Object.entries(COPIES)) {
    test(`${name} brings back the moment it was made at`, async (t) => {
      const to = folderOf(t)
      const args = ['--aof-timestamp-enabled', 'yes']
      const before = await privateRedis(t, { fsync: 'always', args })
      const vhost = await worked(t, before.url, [before], (atS) => copy(before.dir, to, atS))
      const aof = name !== 'a snapshot'
      const redis = await privateRedis(t, { aof, args: ['--dir', to] })
      if (!aof) await redis.redis.config('SET', 'appendonly', 'yes')
      await checkRestored(t, redis.url, vhost)
    })
  }

  for (const [name, start] of [
    ['behind sentinels', privateSentinel],
    ['in a cluster', privateCluster],
  ] as const) {
    test(`${name} snapshots of the primaries bring back their moment`, async (t) => {
      const { url, servers, sentinels, primaries, whole } = await start(t, { aof: false })
      const kept = (await primaries()).map((primary) => ({ primary, to: folderOf(t) }))
      const replicas = servers.filter((server) => kept.every(({ primary }) => primary !== server))
      const vhost = await worked(t, url, await primaries(), async () => {
        for (const { primary, to } of kept) {
          copyFile('dump.rdb', primary.dir, to)
          await snapshot(primary) // newer than what is restored
        }
      })
      for (const server of [...sentinels, ...replicas]) await server.kill9()
      for (const { primary, to } of kept) {
        await primary.kill9()
        copyFile('dump.rdb', to, primary.dir)
      }
      for (const { dir } of replicas) rmSync(join(dir, 'dump.rdb'), { force: true })
      await Promise.all(kept.map(({ primary }) => primary.restart()))
      await Promise.all(replicas.map((replica) => replica.restart()))
      await Promise.all(sentinels.map((sentinel) => sentinel.restart()))
      await whole()
      await checkRestored(t, url, vhost)
    })
  }
})

/** What a new broker finds. */
async function checkRestored(t: TestContext, redisUrl: string, vhostName: string): Promise<void> {
  const restored = await deploy(t, ALL, { redisUrl })
  const vhost = new Vhost(vhostName, restored.routers[0]!, restored.deliveries[0]!)
  const found: [string, boolean][] = []
  await waitFor(
    async () => {
      for (const message of await vhost.lease('q', { waitMs: 0 })) {
        found.push([message.body, message.redelivered])
        await vhost.settle('q', message, { outcome: 'ack' })
      }
      return found.length === 3
    },
    { what: 'three messages', timeoutMs: 60_000 },
  )
  assert.deepEqual(found.toSorted(), [
    ['acknowledged since', false],
    ['held', true],
    ['ready', false],
  ])
  assert.deepEqual(await vhost.drain('delayed', { waitMs: 15_000 }), ['later'])
  await vhost.send('q', 'goes on')
  assert.deepEqual(await vhost.drain('q'), ['goes on'])
}

/** Work before and after a moment, of which `copy` keeps what was before; the vhost's name. */
async function worked(
  t: TestContext,
  redisUrl: string,
  servers: readonly PrivateRedis[],
  copy: (atS: number) => Promise<void>,
): Promise<string> {
  const deployment = await deploy(t, ALL, { redisUrl })
  const vhost = await deployment.vhost()
  for (const queue of ['q', 'delayed']) await vhost.queue(queue)
  await vhost.send('delayed', 'later', { 'Sluice-Delay': 5_000 })
  for (const body of ['held', 'acknowledged since', 'ready']) await vhost.send('q', body)
  await vhost.leaseOne('q', { leaseMs: 6_000 })

  const [atS] = await servers[0]!.redis.time()
  for (const server of servers) await snapshot(server)
  await sleep(1_100) // the AOF tells seconds apart

  const acknowledged = await vhost.leaseOne('q')
  assert.equal(acknowledged.body, 'acknowledged since')
  await vhost.settle('q', acknowledged, { outcome: 'ack' })
  await vhost.send('q', 'published since')
  await copy(Number(atS))
  await deployment.processes[0]!.kill9()
  return vhost.name
}

async function snapshot({ redis }: PrivateRedis): Promise<void> {
  await redis.bgsave()
  const saved = async () => (await redis.info('persistence')).includes('rdb_bgsave_in_progress:0')
  await waitFor(saved, { what: 'a snapshot' })
}

function copyFile(name: string, from: string, to: string): void {
  copyFileSync(join(from, name), join(to, name))
}

function folderOf(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-backup-'))
  t.after(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}
