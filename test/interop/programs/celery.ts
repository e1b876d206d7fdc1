/**
 * Celery: a worker with acks_late and its client, results over AMQP; chords, which need a store
 * that counts, in a Redis of their own.
 */
import { fileURLToPath } from 'node:url'
import { privateRedis } from '@sluice/testkit'
import type { Json } from '../client.ts'
import { PYTHON } from '../clients/bridge.ts'
import type { Program } from '../suites.ts'
import { run } from './command.ts'

const SCRIPT = fileURLToPath(new URL('../python/celery_programs.py', import.meta.url))

export function celery(program: string, { results }: { results: 'rpc' | 'redis' }): Program {
  return async (url, name) => {
    const ends: (() => unknown)[] = []
    try {
      const scope = {
        after: (end: unknown) => void ends.push(end as () => unknown),
        skip: (why?: string) => {
          throw new Error(why)
        },
      }
      const store = results === 'redis' ? await privateRedis(scope, { aof: false }) : undefined
      return await perform(program, {
        INTEROP_BROKER: url,
        INTEROP_PREFIX: prefixOf(name),
        INTEROP_RESULTS: store?.url ?? 'rpc://',
      })
    } finally {
      for (let end = ends.shift(); end; end = ends.shift()) await end()
    }
  }
}

async function perform(program: string, env: NodeJS.ProcessEnv): Promise<Json> {
  const { code, out, err } = await run(PYTHON, [SCRIPT, program], { env })
  if (code !== 0) throw new Error(`ended with ${code}:\n${err.slice(-4_000)}`)
  return JSON.parse(out.trim().split('\n').at(-1) ?? '') as Json
}

/** Also tells the worker's harness which queues it will leave behind. */
function prefixOf(name: (suffix: string) => string): string {
  for (const left of ['tasks', 'other', 'control.pidbox', 'reply.control.pidbox']) name(left)
  return name('')
}
