/** Versions of the broker: the one that is checked out, and any earlier one out of its history. */
import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Scope } from '../support/processes.ts'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const ARCHIVE_BYTES_MAX = 512 * 1024 * 1024
/** What a process of it runs of. */
const PARTS = ['package.json', 'libs', 'services']

/**
 * The version that the present one must work beside. As none was released yet, it is the first
 * that is known to stop in order however a stop falls: those before it could log an error or wait
 * in vain. Behind a release this becomes the commit of that release; older ones need not work
 * beside the present one.
 */
export const EARLIER = 'e20bf94'

export interface Version {
  readonly name: string
  /** What starts a process of it; unless told, what is checked out. */
  readonly main?: string
}

export const PRESENT: Version = { name: 'present' }

/** Whether the history has it: a shallow clone has none. */
export function hasRevision(revision: string): boolean {
  try {
    execFileSync('git', ['cat-file', '-e', `${revision}^{commit}`], { cwd: ROOT, stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}

/** Lays it out in a folder of its own, which goes with the test. */
export function versionOf(t: Scope, revision: string): Version {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-earlier-'))
  t.after(() => rmSync(folder, { recursive: true, force: true }))
  const options = { cwd: ROOT, maxBuffer: ARCHIVE_BYTES_MAX }
  const input = execFileSync('git', ['archive', revision, ...PARTS], options)
  execFileSync('tar', ['-x', '-C', folder], { input })
  linkPackages(folder)
  return { name: revision, main: join(folder, 'services/all-in-one/src/main.ts') }
}

/**
 * The packages of others are the present ones, so that nothing is fetched; those of the project are
 * its own.
 */
function linkPackages(folder: string): void {
  const to = join(folder, 'node_modules')
  mkdirSync(join(to, '@sluice'), { recursive: true })
  for (const name of readdirSync(join(ROOT, 'node_modules'))) {
    if (name !== '@sluice') symlinkSync(join(ROOT, 'node_modules', name), join(to, name))
  }
  for (const group of ['libs', 'services']) {
    for (const name of readdirSync(join(folder, group))) {
      const text = readFileSync(join(folder, group, name, 'package.json'), 'utf8')
      symlinkSync(join(folder, group, name), join(to, JSON.parse(text).name))
    }
  }
}
