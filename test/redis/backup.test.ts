/**
 * What docs/backup.md says: copies made under a running broker, restored to a Redis of their own,
 * and what a new broker finds there.
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
import { type TestContext, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { privateRedis, waitFor } from '@sluice/testkit'
import { deploy, Vhost } from '../support/deployment.ts'

const ALL = ['router delivery reaper']
const COPIES = {
  async 'a snapshot'(from: string, to: string) {
    copyFileSync(join(from, 'dump.rdb'), join(to, 'dump.rdb'))
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

for (const [name, copy] of Object.entries(COPIES)) {
  test(`${name} brings back the moment it was made at`, async (t) => {
    const to = folderOf(t)
    const vhostName = await copied(t, (from, atS) => copy(from, to, atS))
    const aof = name !== 'a snapshot'
    const redis = await privateRedis(t, { aof, args: ['--dir', to] })
    if (!aof) await redis.redis.config('SET', 'appendonly', 'yes')
    const restored = await deploy(t, ALL, { redisUrl: redis.url })
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
  })
}

/** Work before and after a moment, of which `copy` keeps what was before; the vhost's name. */
async function copied(t: TestContext, copy: (from: string, atS: number) => Promise<void>) {
  const args = ['--aof-timestamp-enabled', 'yes']
  const { url, redis, dir } = await privateRedis(t, { fsync: 'always', args })
  const deployment = await deploy(t, ALL, { redisUrl: url })
  const vhost = await deployment.vhost()
  for (const queue of ['q', 'delayed']) await vhost.queue(queue)
  await vhost.send('delayed', 'later', { 'Sluice-Delay': 5_000 })
  for (const body of ['held', 'acknowledged since', 'ready']) await vhost.send('q', body)
  await vhost.leaseOne('q', { leaseMs: 2_000 })

  const [atS] = await redis.time()
  await redis.bgsave()
  const saved = async () => (await redis.info('persistence')).includes('rdb_bgsave_in_progress:0')
  await waitFor(saved, { what: 'a snapshot' })
  await sleep(1_100) // the AOF tells seconds apart

  const acknowledged = await vhost.leaseOne('q')
  assert.equal(acknowledged.body, 'acknowledged since')
  await vhost.settle('q', acknowledged, { outcome: 'ack' })
  await vhost.send('q', 'published since')
  await copy(dir, Number(atS))
  await deployment.processes[0]!.kill9()
  return vhost.name
}

function folderOf(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-backup-'))
  t.after(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}
