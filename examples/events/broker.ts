/** The broker of the example: the one that SLUICE names, or its own that leaves nothing behind. */
import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openRedis } from '../../tools/redis.mjs'
import type { Place } from './api.ts'

const MAIN = new URL('../../services/all-in-one/src/main.ts', import.meta.url).pathname

export interface Broker {
  readonly place: Place
  /** Ends what was started for it. */
  close(): Promise<void>
}

/**
 * @param settings of a broker of its own, besides the usual ones.
 *
 * SLUICE is the URL of a running broker, and SLUICE_ADMIN_PASSWORD its password. Without SLUICE a
 * broker and its Redis are started, in a folder that goes with them; REDIS_URL names another Redis.
 */
export async function openBroker(
  say: (line: string) => void,
  settings: Readonly<Record<string, string>> = {},
): Promise<Broker> {
  const { SLUICE: url, SLUICE_ADMIN_USER: user, SLUICE_ADMIN_PASSWORD: password } = process.env
  if (!url) return await startBroker(say, settings)
  if (!password) throw new Error('Give the password of that broker: SLUICE_ADMIN_PASSWORD.')
  const place = { url: url.replace(/\/$/, ''), credential: `${user || 'admin'}:${password}` }
  return { place, close: async () => {} }
}

async function startBroker(
  say: (line: string) => void,
  settings: Readonly<Record<string, string>>,
): Promise<Broker> {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-example-'))
  const redis = await openRedis({ dir: join(folder, 'redis'), persist: true, say })
  const password = randomBytes(18).toString('base64url')
  const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', MAIN], {
    env: {
      ...process.env,
      REDIS_URL: redis.url,
      SLUICE_DATA_DIR: folder,
      SLUICE_HTTP_HOST: '127.0.0.1',
      SLUICE_HTTP_PORT: '0',
      SLUICE_AMQP_PORT: '0',
      SLUICE_AMQP_HOST: '127.0.0.1',
      SLUICE_ADMIN_USER: 'admin',
      SLUICE_ADMIN_PASSWORD: password,
      SLUICE_LOG_LEVEL: 'error',
      ...settings,
    },
    stdio: ['ignore', 2, 2, 'ipc'],
    detached: true, // Ctrl-C reaches it from here, after the consumers
  })
  const ended = once(child, 'exit')
  const close = async () => {
    child.kill('SIGTERM')
    await ended
    await redis.stop()
    rmSync(folder, { recursive: true, force: true })
  }
  const failed = ended.then(() => {
    throw new Error('the broker did not start: see above')
  })
  try {
    const [ready] = (await Promise.race([once(child, 'message'), failed])) as [{ http: string }]
    failed.catch(() => {}) // it ends with the example
    say(`a broker of its own at ${ready.http}`)
    return { place: { url: ready.http, credential: `admin:${password}` }, close }
  } catch (error) {
    await close()
    throw error
  }
}
