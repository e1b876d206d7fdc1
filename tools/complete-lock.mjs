/**
 * Completes package-lock.json with the platform-only optional packages that the registry in use
 * does not serve (for macOS, Windows, ...). `npm install` drops them from the lock, and `npm ci`
 * then refuses it: "Missing: @biomejs/cli-android-arm64 from lock file". Entries carry version, os
 * and cpu, so npm skips them where they do not fit, without a fetch.
 *
 * Run after each `npm install`: node tools/complete-lock.mjs [package-lock.json]
 */
import { readFileSync, writeFileSync } from 'node:fs'

const OS = [
  'android',
  'darwin',
  'freebsd',
  'netbsd',
  'openbsd',
  'win32',
  'sunos',
  'aix',
  'openharmony',
  'linux',
  'wasi',
]
const CPU = [
  'arm64',
  'x64',
  'ia32',
  'arm',
  'loong64',
  'mips64el',
  'ppc64',
  'ppc',
  'riscv64',
  's390x',
  'wasm32',
]

const file = process.argv[2] ?? 'package-lock.json'
const lock = JSON.parse(readFileSync(file, 'utf8'))
let added = 0
for (const [path, entry] of Object.entries(lock.packages)) {
  for (const [name, range] of Object.entries(entry.optionalDependencies ?? {})) {
    if (isLocked(path, name)) continue
    const words = name.replace(/^@[^/]+\//, '').split(/[-_]/)
    const os = words.find((word) => OS.includes(word))
    const cpu =
      words.find((word) => CPU.includes(word)) ?? (words.includes('armv7') ? 'arm' : undefined)
    lock.packages[`node_modules/${name}`] = {
      version: range.replace(/^[\^~]/, ''),
      ...(entry.dev && { dev: true }),
      optional: true,
      ...(os && { os: [os] }),
      ...(cpu && { cpu: [cpu] }),
      ...(words.includes('musl') && { libc: ['musl'] }),
    }
    added++
  }
}
const paths = Object.keys(lock.packages).sort()
lock.packages = Object.fromEntries(paths.map((path) => [path, lock.packages[path]]))
writeFileSync(file, `${JSON.stringify(lock, null, 2)}\n`)
console.log(`${added} entries added`)

/**
 * True when `name`, asked for by the package at `path`, resolves to a locked entry.
 *
 * @param {string} path
 * @param {string} name
 */
function isLocked(path, name) {
  for (let at = path; ; at = at.slice(0, Math.max(0, at.lastIndexOf('/node_modules/')))) {
    if (lock.packages[`${at ? `${at}/` : ''}node_modules/${name}`]) return true
    if (at === '') return false
  }
}
