/** What `npm start` and `npm test` need before anything of ours runs: packages, and a newer Node. */
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

export const ROOT = fileURLToPath(new URL('..', import.meta.url))

/** The oldest Node that runs TypeScript sources as they are, and everything we depend on. */
const NODE_MIN = [22, 22]

/**
 * Installs packages where that is needed; returns the Node to run with. Throws when there is none
 * new enough, or the installation failed.
 *
 * @param {(line: string) => void} say
 * @returns {string}
 */
export function prepare(say) {
  if (!isInstalled()) {
    say('installing packages: npm ci')
    const { status } = spawnSync('npm', ['ci', '--no-audit', '--no-fund', '--loglevel=error'], {
      cwd: ROOT,
      stdio: ['ignore', 2, 2], // standard output is for what the command was asked for
    })
    if (status !== 0) throw new Error('npm ci failed: see above')
  }
  return newEnough()
}

/** True when what is installed is what package-lock.json asks for. */
function isInstalled() {
  const installed = packagesIn(join('node_modules', '.package-lock.json')) // written last by npm
  return Object.entries(packagesIn('package-lock.json')).every(
    ([path, { version, optional }]) =>
      path === '' || optional || installed[path]?.version === version,
  )
}

/**
 * @param {string} file
 * @returns {Record<string, { version?: string, optional?: boolean }>}
 */
function packagesIn(file) {
  const path = join(ROOT, file)
  return existsSync(path) ? JSON.parse(readFileSync(path, 'utf8')).packages : {}
}

/** @returns {string} */
function newEnough() {
  // On Linux x64 a package brings Node 24 along, for machines that have an older one.
  const bundled = join(ROOT, 'node_modules', '.bin', 'node')
  const candidates = existsSync(bundled) ? [bundled, process.execPath] : [process.execPath]
  const found = candidates.find((path) => {
    const { stdout } = spawnSync(path, ['--version'], { encoding: 'utf8' })
    const [major = 0, minor = 0] = (stdout ?? '').slice(1).split('.').map(Number)
    const [majorMin = 0, minorMin = 0] = NODE_MIN
    return major > majorMin || (major === majorMin && minor >= minorMin)
  })
  if (found !== undefined) return found
  throw new Error(
    `Sluice needs Node ${NODE_MIN.join('.')} or newer; this is ${process.version}. See https://nodejs.org`,
  )
}
