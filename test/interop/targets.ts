/** The brokers that scenarios run against: Sluice, and a RabbitMQ to compare with. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { privateRedis } from '@sluice/testkit'
import { startRabbitmq } from './rabbitmq.ts'

export type TargetName = 'rabbitmq' | 'sluice'

export interface Target {
  readonly name: TargetName
  /** amqp://user:password@host:port */
  readonly url: string
  stop(): Promise<void>
}

const MAIN = fileURLToPath(new URL('../../services/all-in-one/src/main.ts', import.meta.url))
const PASSWORD = 'interop-password'

/** Why there is none, or how to reach it. */
export async function openTarget(name: TargetName): Promise<Target | { readonly missing: string }> {
  if (name === 'sluice') return await openSluice()
  const rabbitmq = await startRabbitmq()
  return 'missing' in rabbitmq ? rabbitmq : { name, url: rabbitmq.url, stop: rabbitmq.stop }
}

/** SLUICE_AMQP_URL, or every service in one process, with a Redis of its own. */
async function openSluice(): Promise<Target | { readonly missing: string }> {
  const named = process.env['SLUICE_AMQP_URL']
  if (named) return { name: 'sluice', url: named, stop: async () => {} }
  const ends: (() => unknown)[] = []
  const stop = async () => {
    // One may register another, to be the last.
    for (let end = ends.shift(); end; end = ends.shift()) await end()
  }
  const scope = {
    after: (end: unknown) => void ends.push(end as () => unknown),
    skip: (why?: string) => {
      throw new Error(why)
    },
  }
  try {
    const redis = await privateRedis(scope)
    const child = spawn(process.execPath, [MAIN], {
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
      env: {
        PATH: process.env['PATH'],
        REDIS_URL: redis.url,
        SLUICE_HTTP_PORT: '0',
        SLUICE_AMQP_PORT: '0',
        SLUICE_ADMIN_PASSWORD: PASSWORD,
        SLUICE_LOG_LEVEL: 'error',
        NODE_NO_WARNINGS: '1',
      },
    })
    const exited = once(child, 'exit')
    ends.unshift(async () => {
      child.kill('SIGTERM')
      await exited
    })
    const died = exited.then(([code]) => {
      throw new Error(`Sluice ended with ${code}`)
    })
    const [ready] = (await Promise.race([once(child, 'message'), died])) as [{ amqp?: string }]
    if (!ready.amqp) throw new Error('it has no AMQP door')
    const { hostname, port } = new URL(ready.amqp)
    return { name: 'sluice', url: `amqp://admin:${PASSWORD}@${hostname}:${port}`, stop }
  } catch (error) {
    await stop()
    return { missing: (error as Error).message }
  }
}
