/**
 * Fetches a redis-server from the system's own packages.
 *
 * On Debian, Ubuntu and Alpine nothing of the system is changed: packages are unpacked under
 * `sluice/redis-<version>` in the user's cache, and a small script there starts the server with
 * the libraries beside it. Homebrew installs as it always does, into its own folder.
 */
import { execFile, spawnSync } from 'node:child_process'
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { homedir, tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'

const run = promisify(execFile)
const OUTPUT_BYTES_MAX = 64 * 1024 * 1024

/**
 * Where fetched servers are kept.
 *
 * @param {NodeJS.ProcessEnv} env
 */
export function cacheFolder(env) {
  return join(env.XDG_CACHE_HOME || join(env.HOME || homedir(), '.cache'), 'sluice')
}

/**
 * The version a server says it has, e.g. '7.0.15'; undefined when it does not run.
 *
 * @param {string} binary
 * @returns {string | undefined}
 */
export function versionOf(binary) {
  const { stdout } = spawnSync(binary, ['--version'], { encoding: 'utf8', timeout: 10_000 })
  return /\bv=(\d+(?:\.\d+)+)/.exec(stdout ?? '')?.[1]
}

/**
 * Path of a server fetched by the first way that works here; undefined when none does, after
 * saying why.
 *
 * @param {NodeJS.ProcessEnv} env
 * @param {(line: string) => void} say
 * @returns {Promise<string | undefined>}
 */
export async function fetchRedis(env, say) {
  const ways = [
    { tool: 'apt-get', fetch: fromApt, what: 'Debian packages, unpacked into your cache' },
    { tool: 'apk', fetch: fromApk, what: 'Alpine packages, unpacked into your cache' },
    { tool: 'brew', fetch: fromHomebrew, what: '`brew install redis`' },
  ]
  for (const { tool, fetch, what } of ways) {
    if (spawnSync(tool, ['--version'], { env, stdio: 'ignore' }).error) continue
    say(`no redis-server here; fetching one: ${what}`)
    try {
      const binary = await fetch(env)
      say(`fetched ${binary}`)
      return binary
    } catch (error) {
      say(`could not fetch Redis with ${tool}: ${lastWords(error)}`)
    }
  }
  return undefined
}

/** @param {NodeJS.ProcessEnv} env */
async function fromApt(env) {
  return await unpacked(env, async (work, root) => {
    const debs = join(work, 'debs')
    mkdirSync(debs)
    try {
      await downloadDebs(debs, [])
    } catch {
      // No package lists, or old ones. Fetched into a folder of our own, they need no root.
      const lists = join(work, 'lists')
      const cache = join(work, 'cache')
      mkdirSync(join(lists, 'partial'), { recursive: true })
      mkdirSync(join(cache, 'archives', 'partial'), { recursive: true })
      const own = ['-o', `Dir::State::lists=${lists}`, '-o', `Dir::Cache=${cache}`]
      own.push('-o', 'Debug::NoLocking=1', '-o', 'APT::Sandbox::User=')
      await run('apt-get', [...own, '-qq', 'update'], { maxBuffer: OUTPUT_BYTES_MAX })
      await downloadDebs(debs, own)
    }
    for (const deb of readdirSync(debs)) await run('dpkg-deb', ['-x', join(debs, deb), root])
  })
}

/**
 * redis-server and those libraries of it that the system lacks.
 *
 * @param {string} folder
 * @param {string[]} options of apt-get
 */
async function downloadDebs(folder, options) {
  const simulate = ['-qq', '--simulate', '--no-install-recommends', 'install', 'redis-server']
  const { stdout } = await run('apt-get', [...options, ...simulate], {
    maxBuffer: OUTPUT_BYTES_MAX,
  })
  const missing = [...stdout.matchAll(/^Inst (\S+)/gm)].map(([, name = '']) => name)
  const wanted = missing.filter((name) => /^(?:redis|valkey|lib)/.test(name))
  // Installed, yet not on PATH: then its libraries are there too.
  const packages = wanted.length > 0 ? wanted : ['redis-server', 'redis-tools']
  await run('apt-get', [...options, '-qq', 'download', ...packages], { cwd: folder })
}

/** @param {NodeJS.ProcessEnv} env */
async function fromApk(env) {
  return await unpacked(env, async (work, root) => {
    const apks = join(work, 'apks')
    mkdirSync(apks)
    await run('apk', ['fetch', '--no-cache', '--recursive', '--output', apks, 'redis'])
    for (const apk of readdirSync(apks)) {
      await run('tar', ['-xzf', join(apks, apk), '-C', root])
    }
  })
}

/** @param {NodeJS.ProcessEnv} env */
async function fromHomebrew(env) {
  await run('brew', ['install', 'redis'], { env, maxBuffer: OUTPUT_BYTES_MAX })
  const { stdout } = await run('brew', ['--prefix', 'redis'], { env })
  return join(stdout.trim(), 'bin', 'redis-server')
}

/**
 * Lets `fill` put a file tree with usr/bin/redis-server into `root`, then moves it into the cache.
 *
 * @param {NodeJS.ProcessEnv} env
 * @param {(work: string, root: string) => Promise<void>} fill
 */
async function unpacked(env, fill) {
  const work = mkdtempSync(join(tmpdir(), 'sluice-fetch-'))
  try {
    const made = join(work, 'redis')
    const root = join(made, 'root')
    mkdirSync(root, { recursive: true })
    await fill(work, root)
    const launcher = writeLauncher(made)
    const version = versionOf(launcher)
    if (version === undefined) {
      const { stderr } = spawnSync(launcher, ['--version'], { encoding: 'utf8' })
      throw new Error(`the fetched redis-server does not run here: ${stderr}`)
    }
    return keep(made, join(cacheFolder(env), `redis-${version}`))
  } finally {
    rmSync(work, { recursive: true, force: true })
  }
}

/**
 * A script that starts the server with the libraries fetched beside it.
 *
 * @param {string} made
 */
function writeLauncher(made) {
  const libraries = ['usr/lib', 'lib'].flatMap((folder) => {
    const path = join(made, 'root', folder)
    if (!existsSync(path)) return []
    const inner = readdirSync(path, { withFileTypes: true }).filter((entry) => entry.isDirectory())
    return [`$root/${folder}`, ...inner.map(({ name }) => `$root/${folder}/${name}`)]
  })
  mkdirSync(join(made, 'bin'))
  const launcher = join(made, 'bin', 'redis-server')
  writeFileSync(
    launcher,
    [
      '#!/bin/sh',
      'root=$(cd "$(dirname "$0")/../root" && pwd)',
      `LD_LIBRARY_PATH=${libraries.join(':')} exec "$root/usr/bin/redis-server" "$@"`,
      '',
    ].join('\n'),
  )
  chmodSync(launcher, 0o755)
  return launcher
}

/**
 * Moves `made` to `target`; when another process was there first, its result serves as well.
 *
 * @param {string} made
 * @param {string} target
 */
function keep(made, target) {
  mkdirSync(dirname(target), { recursive: true })
  const near = `${target}.${process.pid}` // a rename works within one file system only
  cpSync(made, near, { recursive: true, verbatimSymlinks: true })
  try {
    renameSync(near, target)
  } catch (error) {
    rmSync(near, { recursive: true, force: true })
    if (!existsSync(join(target, 'bin', 'redis-server'))) throw error
  }
  return join(target, 'bin', 'redis-server')
}

/** @param {unknown} error */
function lastWords(error) {
  const text = error instanceof Error && 'stderr' in error ? String(error.stderr) : String(error)
  return text.trim().split('\n').slice(-3).join('\n  ')
}
