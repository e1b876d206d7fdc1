/**
 * Lua scripts as typed functions.
 *
 * A script is one file in ./lua and one `script(...)` call in scripts.ts. Its arguments have names
 * here and numbers there; tools/tidy.test.ts reads the file's header and fails when the two
 * disagree. KEYS[1] is the `{hash tag}` that every key of one queue (or of the topology) starts
 * with, so a script touches one slot and also runs on Redis Cluster. The names behind it are built
 * in lua/prelude.lua, which is put before every script.
 *
 * KEYS[2] is a key that never exists. While a cluster moves a slot, what has not moved yet looks
 * missing at the new primary; a script that asks for more than one key, and not all are there, is
 * not run in the midst of that but answered TRYAGAIN, and sent again.
 *
 * A trailing argument called `...` takes a list of any length.
 */
import { readFileSync } from 'node:fs'
import type { Redis } from 'ioredis'

export type ScriptValue = string | number | Buffer

interface Script<R> {
  /** Sends the script; the reply's bulk strings are Buffers until `decode` has read them. */
  (redis: Redis, base: string, args: readonly ScriptValue[]): Promise<R>
  /** For tools/tidy.test.ts, which holds these to the Lua file's header. */
  readonly spec: { name: string; args: readonly string[] }
}

const read = (name: string) => readFileSync(new URL(`./lua/${name}.lua`, import.meta.url), 'utf8')
const prelude = read('prelude')

/**
 * @param args the names of ARGV[1], ARGV[2], ... in order, as in the Lua file's header.
 * @param decode turns the reply into an outcome; throws on a shape the script never returns.
 */
export function script<R>(
  name: string,
  args: readonly string[],
  decode: (reply: unknown[]) => R,
): Script<R> {
  const lua = `${prelude}\n${read(name)}`
  const command = `sluice:${name}`
  const method = `${command}Buffer`
  const defined = new WeakSet<Redis>()

  async function run(redis: Redis, base: string, values: readonly ScriptValue[]): Promise<R> {
    if (!defined.has(redis)) {
      // ioredis sends EVALSHA, and EVAL again after a NOSCRIPT.
      redis.defineCommand(command, { numberOfKeys: 2, lua })
      defined.add(redis)
    }
    const call = Reflect.get(redis, method) as (...values: ScriptValue[]) => Promise<unknown[]>
    try {
      return decode(await call.apply(redis, [base, `${base}-`, ...values]))
    } catch (error) {
      // ioredis attaches the command: here a whole script, and messages that no log should hold.
      if (error instanceof Error && 'command' in error) error.command = name
      throw error
    }
  }

  return Object.assign(run, { spec: { name, args } })
}

/** A reply's word, e.g. 'ok', from its bulk string. */
export function word(value: unknown): string {
  return Buffer.isBuffer(value) ? value.toString('latin1') : String(value)
}
