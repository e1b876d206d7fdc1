/**
 * The Redis of `npm start` and `npm test`: named by REDIS_URL, found, or fetched.
 *
 * Plain JavaScript without dependencies: it runs on the Node a machine happens to have, before
 * anything is installed. The ways, in order: REDIS_URL; redis-server or valkey-server on PATH, or
 * fetched before; fetched from the system's packages into the user's cache, without root; Docker.
 */
import { accessSync, constants, existsSync, readdirSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { cacheFolder, fetchRedis, versionOf } from './redis-fetch.mjs'
import { hasDocker, startChild, startContainer } from './redis-server.mjs'

/** Streams, functions and commands that scripts use came with this version. */
export const VERSION_MIN = '7.0'

/**
 * @typedef {object} RunningRedis
 * @property {string} url with the password, so never to be logged.
 * @property {string} from what it is, for people.
 * @property {Promise<string>} ended what happened, when a server that we started ends.
 * @property {() => Promise<void>} stop ends a server that we started; leaves any other alone.
 */

/**
 * @param {object} options
 * @param {string} options.dir folder of the server's files, made when missing.
 * @param {boolean} options.persist whether what is written survives the server.
 * @param {(line: string) => void} options.say where progress goes.
 * @param {NodeJS.ProcessEnv} [options.env]
 * @returns {Promise<RunningRedis>}
 */
export async function openRedis({ dir, persist, say, env = process.env }) {
  if (env.REDIS_URL) {
    const ended = /** @type {Promise<string>} */ (new Promise(() => {}))
    return { url: env.REDIS_URL, from: 'REDIS_URL', ended, stop: async () => {} }
  }
  const fsync = env.SLUICE_FSYNC || 'everysec'
  const settings = { dir, persist, fsync, say }
  const binary = findServer(env, say) ?? usable(await fetchRedis(env, say), say)
  if (binary !== undefined) return await startChild(binary, settings)
  if (await hasDocker(env)) return await startContainer(settings)
  throw new Error(
    [
      `Sluice keeps everything in Redis ${VERSION_MIN} or newer (or Valkey), and none was found. Any one of these helps:`,
      '  - set REDIS_URL, e.g. REDIS_URL=redis://127.0.0.1:6379 npm start',
      '  - put redis-server or valkey-server on PATH (apt install redis-server, brew install redis, apk add redis)',
      '  - on Debian or Ubuntu with network, npm start fetches one without root: see above why it could not',
      '  - start Docker: npm start then runs the image redis:7',
    ].join('\n'),
  )
}

/**
 * A server that is new enough: on PATH, else fetched before.
 *
 * @param {NodeJS.ProcessEnv} env
 * @param {(line: string) => void} say
 * @returns {string | undefined}
 */
function findServer(env, say) {
  const folders = (env.PATH ?? '').split(delimiter).filter((folder) => folder !== '')
  const cache = cacheFolder(env)
  if (existsSync(cache)) {
    const fetched = readdirSync(cache).filter((name) => name.startsWith('redis-'))
    folders.push(...fetched.map((name) => join(cache, name, 'bin')))
  }
  return folders
    .flatMap((folder) => [join(folder, 'redis-server'), join(folder, 'valkey-server')])
    .filter(isExecutable)
    .find((path) => usable(path, say))
}

/**
 * @param {string | undefined} binary
 * @param {(line: string) => void} say
 */
function usable(binary, say) {
  const version = binary && versionOf(binary)
  if (!version) return undefined
  const [major = 0] = version.split('.').map(Number)
  if (major >= Number.parseInt(VERSION_MIN, 10)) return binary
  say(`${binary} is ${version}, older than ${VERSION_MIN}: looking further`)
  return undefined
}

/** @param {string} path */
function isExecutable(path) {
  try {
    accessSync(path, constants.X_OK)
    return true
  } catch {
    return false
  }
}
