/** The files of the repository as tidy.test.ts reads them. */
import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'

export const ROOT = new URL('..', import.meta.url).pathname

export interface SourceFile {
  /** From the root, with forward slashes. */
  readonly path: string
  readonly text: string
  readonly lines: readonly string[]
}

interface Package {
  readonly name: string
  /** From the root, e.g. libs/core. */
  readonly folder: string
  /** Its `layer:n` in nx.tags: it imports only packages of lower layers. */
  readonly layer: number
  readonly dependencies: ReadonlySet<string>
}

/** Every file that git tracks or would track, by ending. */
export function files(...endings: string[]): SourceFile[] {
  const listed = execFileSync('git', ['ls-files', '-co', '--exclude-standard'], { cwd: ROOT })
  return listed
    .toString()
    .split('\n')
    .filter((path) => endings.some((ending) => path.endsWith(ending)))
    .filter((path) => existsSync(join(ROOT, path)))
    .map((path) => {
      const text = readFileSync(join(ROOT, path), 'utf8')
      return { path, text, lines: text.replace(/\n$/, '').split('\n') }
    })
}

/** What a file imports, as written: './x.ts', '@sluice/core', 'node:fs'. */
export function importsOf({ text }: SourceFile): string[] {
  const found = text.matchAll(
    /^(?:import|export)\b[^'"`;]*?from '([^']+)'|\bimport\(\s*'([^']+)'\)|^import '([^']+)'/gms,
  )
  return [...found].map(([, from, dynamic, bare]) => from ?? dynamic ?? bare ?? '')
}

/** The path that a relative import of `file` names. */
export function resolved({ path }: SourceFile, specifier: string): string {
  return join(dirname(path), specifier)
}

export function packages(): Package[] {
  return files('package.json')
    .filter(({ path }) => /^(?:libs|services)\/[\w-]+\/package\.json$/.test(path))
    .map(({ path, text }) => {
      const {
        name,
        nx,
        dependencies = {},
      } = JSON.parse(text) as {
        name: string
        nx: { tags: string[] }
        dependencies?: Record<string, string>
      }
      const layer = nx.tags.find((tag) => tag.startsWith('layer:'))?.slice('layer:'.length)
      return {
        name,
        folder: dirname(path),
        layer: Number(layer),
        dependencies: new Set(Object.keys(dependencies)),
      }
    })
}
