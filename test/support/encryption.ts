/** A broker that encrypts, and everything that its Redis keeps: for tests of encryption at rest. */
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { type PrivateRedis, privateRedis } from '@sluice/testkit'
import { type Deployment, deploy, type Vhost } from './deployment.ts'

export const ALL = 'router delivery reaper'
export const newKey = () => randomBytes(32).toString('hex')

/** In bodies, headers, routing keys and whatever else is nobody's business. */
const MARKER = 'plantedmarker'
let planted = 0
export const mark = (kind: string) => `${MARKER}-${kind}-${planted++}`

export interface World {
  readonly redis: PrivateRedis
  readonly deployment: Deployment
  readonly vhost: Vhost
}

export async function open(
  t: TestContext,
  env: Record<string, string> = { SLUICE_ENCRYPTION_KEY: newKey() },
  layout: readonly string[] = [ALL],
): Promise<World> {
  const redis = await privateRedis(t, { args: ['--rdbcompression', 'no'] })
  const deployment = await deploy(t, layout, { redisUrl: redis.url, env })
  const vhost = await deployment.vhost()
  return { redis, deployment, vhost }
}

export const encrypt = async ({ vhost }: World) => {
  const { status } = await vhost.router('PUT', '', { body: { encryption: true } })
  assert.equal(status, 200)
}

/** Each key and its value. */
export async function keptBy({ redis: { redis } }: World): Promise<Buffer> {
  const parts: Buffer[] = []
  for (let cursor = '0'; ; ) {
    const [next, keys] = await redis.scanBuffer(cursor, 'COUNT', 1_000)
    for (const key of keys) parts.push(key, (await redis.dumpBuffer(key)) ?? Buffer.alloc(0))
    cursor = next.toString()
    if (cursor === '0') return Buffer.concat(parts)
  }
}

/** Every byte that Redis has: also the snapshot and the append-only file. */
export async function dump(world: World): Promise<Buffer> {
  const { redis, dir } = world.redis
  const parts = [await keptBy(world)]
  await redis.save()
  for (const file of readdirSync(dir, { recursive: true, withFileTypes: true })) {
    if (file.isFile()) parts.push(readFileSync(join(file.parentPath, file.name)))
  }
  return Buffer.concat(parts)
}

export async function readable(world: World): Promise<string[]> {
  const all = (await dump(world)).toString('latin1')
  const found = new Set<string>()
  for (const form of [MARKER, Buffer.from(MARKER).toString('hex')]) {
    for (const match of all.matchAll(new RegExp(`${form}-[a-z]*`, 'g'))) found.add(match[0])
  }
  return [...found]
}

export const headers = (more: Record<string, string> = {}) => ({
  'Sluice-Header-Session': mark('header'),
  'Sluice-Message-Id': mark('message-id'),
  ...more,
})

export const keysOf = async ({ deployment: { routers }, vhost }: World) => {
  const { json } = await routers[0]!.request('GET', '/v1/data-keys?pageSize=500')
  return (json.items as KeyJson[]).filter((key) => key.vhost === vhost.name)
}
interface KeyJson {
  readonly id: string
  readonly vhost: string
  readonly queue: string
  readonly wrappedBy: string
  readonly state: string
  readonly newest: boolean
}
