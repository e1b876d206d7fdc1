/**
 * The style rules that a machine can judge. Reads files, runs nothing. Each message says what to
 * do; STYLE.md has the reasons.
 */
import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { test } from 'node:test'
import { longFunctions } from './long-functions.ts'
import { files, importsOf, packages, ROOT, resolved, type SourceFile } from './tree.ts'

const COLUMNS_MAX = 100
const FUNCTION_LINES_MAX = 70
const FILE_LINES_MAX = 500
const DOCS_LINES_MAX = 120

/** Whose functions may be longer: a flat switch over the cases of a protocol, or generated. */
const LONG_FUNCTIONS = new Set(['libs/amqp/src/spec.ts'])
/** Made from a list, so as long as the list. */
const GENERATED = new Set([
  'docs/client-api.md',
  'docs/configuration.md',
  'docs/errors.md',
  'docs/metrics.md',
  'libs/amqp/src/spec.ts',
])

const code = files('.ts', '.mjs')
const lua = files('.lua')
const docs = files('.md')
const importers = new Map<string, string[]>()
for (const file of code) {
  for (const specifier of importsOf(file).filter((name) => name.startsWith('.'))) {
    const path = resolved(file, specifier)
    importers.set(path, [...(importers.get(path) ?? []), file.path])
  }
}

/** A test, or what only tests import. */
function isTest(path: string, seen: ReadonlySet<string> = new Set()): boolean {
  if (path.endsWith('.test.ts') || seen.has(path)) return true
  const within = new Set([...seen, path])
  return importers.get(path)?.every((importer) => isTest(importer, within)) ?? false
}

function none(problems: readonly string[]): void {
  assert.equal(problems.length, 0, `\n${problems.join('\n')}\n`)
}

/** Without what no line break can shorten: string literals and URLs. */
function breakable(line: string): string {
  return line.replace(/'[^']*'|"[^"]*"|`[^`]*`?|https?:\/\/\S+/g, '')
}

test(`lines have at most ${COLUMNS_MAX} columns`, () => {
  none(
    [...code, ...lua].flatMap(({ path, lines }) =>
      lines.flatMap((line, index) =>
        breakable(line).length > COLUMNS_MAX
          ? [`${path}:${index + 1}: ${line.length} columns; break the line`]
          : [],
      ),
    ),
  )
})

test(`files have at most ${FILE_LINES_MAX} lines`, () => {
  none(
    [...code, ...lua]
      .filter(({ path, lines }) => lines.length > FILE_LINES_MAX && !GENERATED.has(path))
      .map(({ path, lines }) => `${path}: ${lines.length} lines; split it where its ideas part`),
  )
})

test(`functions have at most ${FUNCTION_LINES_MAX} lines`, () => {
  none(
    code
      .filter(({ path }) => !LONG_FUNCTIONS.has(path))
      .flatMap((file) =>
        longFunctions(file.lines, FUNCTION_LINES_MAX).map(
          ({ line, length }) =>
            `${file.path}:${line}: a function of ${length} lines; give a part of it a name`,
        ),
      ),
  )
})

test('an index lists its names one by one', () => {
  none(
    code
      .filter(({ text }) => /^export \* from/m.test(text))
      .map(({ path }) => `${path}: export * hides what is public; list the names`),
  )
})

test('every file is imported, or named by what runs it', () => {
  const entry = (path: string) =>
    isTest(path) || /\/src\/(?:index|main)\.ts$|\.bench\.ts$|\.d\.ts$/.test(path)
  const others = files('.ts', '.mjs', '.json', '.md', '.yml', 'run', 'Dockerfile')
  const named = ({ path }: SourceFile) =>
    others.some((other) => other.path !== path && other.text.includes(basename(path)))
  none(
    code
      .filter((file) => !entry(file.path) && !importers.has(file.path) && !named(file))
      .map(({ path }) => `${path}: nobody imports it; delete it, or use it`),
  )
})

test('names say what a thing is', () => {
  const vague = /\b[A-Za-z]*(?:Manager|Helpers?|Utils?|Impl)\b/
  const unfinished = /\b(?:TODO|FIXME|XXX|HACK)\b/
  none(
    [...code, ...lua]
      .filter(({ path }) => path !== 'tools/tidy.test.ts')
      .flatMap(({ path, lines }) =>
        lines.flatMap((line, index) => {
          const word = vague.exec(line)?.[0]
          if (word) return [`${path}:${index + 1}: '${word}' says little; name what it does`]
          return unfinished.test(line) ? [`${path}:${index + 1}: finish it, or leave it out`] : []
        }),
      ),
  )
})

test('packages are entered by their index, and imported only from above', () => {
  const all = packages()
  const byName = new Map(all.map((entry) => [entry.name, entry]))
  const problems: string[] = []
  for (const own of all) {
    for (const file of code.filter(({ path }) => path.startsWith(`${own.folder}/`))) {
      for (const specifier of importsOf(file)) {
        const outside =
          specifier.startsWith('.') && !resolved(file, specifier).startsWith(`${own.folder}/`)
        if (outside && !isTest(file.path)) {
          problems.push(`${file.path}: '${specifier}' leaves ${own.name}; import the package`)
        }
        if (!specifier.startsWith('@sluice/')) continue
        const other = byName.get(specifier)
        if (other === undefined) {
          problems.push(`${file.path}: '${specifier}' is no package; import its index`)
        } else if (specifier === '@sluice/testkit') {
          if (!isTest(file.path)) problems.push(`${file.path}: only tests import the testkit`)
        } else if (other.layer >= own.layer) {
          problems.push(
            `${file.path}: ${own.name} (layer ${own.layer}) must not import ${specifier} (layer ${other.layer})`,
          )
        }
      }
    }
  }
  none(problems)
})

test('what a package imports it declares', () => {
  const root = JSON.parse(
    files('package.json').find(({ path }) => path === 'package.json')!.text,
  ) as {
    devDependencies: Record<string, string>
  }
  const forTests = new Set([...Object.keys(root.devDependencies), '@sluice/testkit', 'ioredis'])
  const problems: string[] = []
  for (const { name, folder, dependencies } of packages()) {
    for (const file of code.filter(({ path }) => path.startsWith(`${folder}/`))) {
      for (const specifier of importsOf(file)) {
        if (/^(?:\.|node:)/.test(specifier)) continue
        const wanted = specifier
          .split('/')
          .slice(0, specifier.startsWith('@') ? 2 : 1)
          .join('/')
        if (dependencies.has(wanted) || (isTest(file.path) && forTests.has(wanted))) continue
        problems.push(`${file.path}: declare ${wanted} in the package.json of ${name}`)
      }
    }
  }
  none(problems)
})

test('only the store talks to Redis', () => {
  const folders = /^(?:libs\/(?:store|testkit)|test|tools)\//
  const workers = /^services\/reaper\/src\/(?:maintenance|schedules)\.ts$/ // of BullMQ
  none(
    code
      .filter(({ path }) => !folders.test(path) && !workers.test(path) && !isTest(path))
      .filter((file) => importsOf(file).some((specifier) => /^(?:ioredis|bullmq)/.test(specifier)))
      .map(({ path }) => `${path}: go through @sluice/store; only it imports the driver`),
  )
})

test('a concept page fits in one sitting', () => {
  none(
    docs
      .filter(({ path }) => path.startsWith('docs/') && !GENERATED.has(path))
      .filter(({ lines }) => lines.length > DOCS_LINES_MAX)
      .map(({ path, lines }) => `${path}: ${lines.length} lines; ${DOCS_LINES_MAX} at most`),
  )
})

test('links within the documents are alive', () => {
  const problems: string[] = []
  for (const page of docs) {
    const prose = page.text.replace(/^```.*?^```/gms, '')
    for (const [, target = ''] of prose.matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^[a-z]+:/.test(target)) continue
      const [file = '', anchor] = target.split('#')
      const path = file === '' ? page.path : join(dirname(page.path), file)
      if (!existsSync(join(ROOT, path))) problems.push(`${page.path}: ${target} leads nowhere`)
      else if (anchor && !anchorsOf(path).has(anchor)) {
        problems.push(`${page.path}: ${path} has no heading #${anchor}`)
      }
    }
  }
  none(problems)
})

/** Headings as GitHub makes them into anchors. */
function anchorsOf(path: string): Set<string> {
  const headings = docs.find((page) => page.path === path)?.text.matchAll(/^#+ +(.*)$/gm) ?? []
  return new Set(
    [...headings].map(([, heading = '']) =>
      heading
        .toLowerCase()
        .replace(/[^\p{L}\p{N} _-]/gu, '')
        .trim()
        .replace(/ /g, '-'),
    ),
  )
}

test('the lock file names no registry host', () => {
  const lock = files('package-lock.json').find(({ path }) => path === 'package-lock.json')!
  const lines = lock.lines.filter((line) => /"resolved": *"https?:/.test(line))
  none(
    lines.slice(0, 3).map((line) => `${line.trim()}: .npmrc has omit-lockfile-registry-resolved`),
  )
})
