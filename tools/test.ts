/**
 * Runs what must pass. First argument: what, `all` unless told; further ones: only files whose path
 * contains one of them.
 *
 *   all    check, every test, short chaos, short benches
 *   check  format, lint, types, generated files, tidy
 *   e2e, interop, chaos, bench   that folder of test/, at full length
 *
 * All test files share one Redis without persistence, as REDIS_URL; those that must own a server
 * start one (libs/testkit). A step that fails does not keep the others from running; the exit code
 * is 1 if any did.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { globSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { openRedis } from './redis.mjs'

/** A hung test fails instead of holding up the run. */
const TEST_MS_MAX = { short: 240_000, full: 3_600_000 }
const TESTS = [
  'libs/*/src/**/*.test.ts',
  'services/*/src/**/*.test.ts',
  'tools/*.test.ts',
  'test/!(chaos)/**/*.test.ts',
]
const CHAOS = ['test/chaos/**/*.test.ts']
const BENCHES = ['test/bench/*.bench.ts']
const KINDS = ['all', 'check', 'e2e', 'interop', 'chaos', 'bench'] as const

const [first = 'all', ...others] = process.argv.slice(2)
const kind = KINDS.find((name) => name === first)
const filters = kind === undefined ? [first, ...others] : others

const folder = mkdtempSync(join(tmpdir(), 'sluice-test-'))
const started = performance.now()
let current: ReturnType<typeof spawn> | undefined
let interrupted = false
const failed: string[] = []
let steps = 0
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.on(signal, () => {
    interrupted = true
    current?.kill(signal)
  })
}

process.exitCode = await main()

async function main(): Promise<number> {
  try {
    if (kind === 'check') await check()
    else await withSharedRedis(runKind)
    report()
    if (steps === 0) throw new Error(`No file has ${filters.join(' or ')} in its path.`)
    return failed.length === 0 ? 0 : 1
  } catch (error) {
    report()
    process.stderr.write(`\n${error instanceof Error ? error.message : error}\n`)
    return 1
  } finally {
    rmSync(folder, { recursive: true })
  }
}

async function runKind(): Promise<void> {
  if (kind === 'e2e' || kind === 'interop') {
    return await test(kind, [`test/${kind}/**/*.test.ts`], { short: false })
  }
  if (kind === 'chaos') return await test('chaos', CHAOS, { short: false, concurrency: 1 })
  if (kind === 'bench') return await bench({ short: false })
  const whole = filters.length === 0
  if (whole) await check()
  await test('tests', TESTS, { short: true })
  await test('chaos', CHAOS, { short: true, concurrency: 1 })
  if (whole) await bench({ short: true })
}

async function check(): Promise<void> {
  await step('format and lint', 'biome', ['check', '--error-on-warnings', '.'])
  await step('types', 'nx', ['run-many', '-t', 'types'])
  await step('generated files', process.execPath, ['tools/generate.ts', '--check'])
  if (kind === 'check') await step('tidy', process.execPath, ['--test', 'tools/tidy.test.ts'])
}

async function test(
  name: string,
  patterns: readonly string[],
  { short, concurrency = availableParallelism() }: { short: boolean; concurrency?: number },
): Promise<void> {
  const files = find(patterns)
  if (files.length === 0) return
  await step(
    name,
    process.execPath,
    [
      '--test',
      `--test-concurrency=${concurrency}`,
      `--test-timeout=${short ? TEST_MS_MAX.short : TEST_MS_MAX.full}`,
      ...['--test-reporter=spec', '--test-reporter-destination=stdout'],
      ...['--test-reporter=./tools/not-passed.ts'],
      `--test-reporter-destination=${join(folder, `${name}.not-passed`)}`,
      ...files,
    ],
    short ? { SHORT: '1' } : {},
  )
}

async function bench({ short }: { short: boolean }): Promise<void> {
  for (const file of find(BENCHES)) {
    await step(file, process.execPath, [file], short ? { SHORT: '1' } : {})
  }
}

/** Files that match a pattern and, where filters are given, contain one. */
function find(patterns: readonly string[]): string[] {
  return globSync(patterns)
    .filter((file) => filters.length === 0 || filters.some((filter) => file.includes(filter)))
    .sort()
}

/** Runs a command to its end, and remembers when it failed. */
async function step(
  name: string,
  command: string,
  args: readonly string[],
  env: NodeJS.ProcessEnv = {},
): Promise<void> {
  if (interrupted) throw new Error('interrupted')
  const begun = performance.now()
  process.stdout.write(`\n== ${name}\n`)
  const path = [join(process.cwd(), 'node_modules', '.bin'), process.env['PATH']].join(delimiter)
  // Hundreds of processes compile the same sources.
  const compiled = { NODE_COMPILE_CACHE: join(folder, 'compiled') }
  current = spawn(command, args, {
    stdio: 'inherit',
    env: { ...process.env, ...compiled, CI: 'true', PATH: path, ...env },
  })
  const [code, signal] = (await once(current, 'close')) as [number | null, string | null]
  const seconds = ((performance.now() - begun) / 1_000).toFixed(1)
  const outcome = code === 0 ? 'passed' : `failed (${signal ?? `exit code ${code}`})`
  process.stdout.write(`== ${name}: ${outcome}, ${seconds} s\n`)
  steps++
  if (code !== 0) failed.push(name)
}

async function withSharedRedis(run: () => Promise<void>): Promise<void> {
  const say = (line: string) => process.stderr.write(`sluice: ${line}\n`)
  const redis = await openRedis({ dir: join(folder, 'redis'), persist: false, say })
  process.env['REDIS_URL'] = redis.url
  try {
    await run()
  } finally {
    await redis.stop()
  }
}

/** What was skipped or failed, and how long it all took. */
function report(): void {
  if (steps === 0) return
  const texts = globSync(join(folder, '*.not-passed')).map((file) => readFileSync(file, 'utf8'))
  process.stdout.write(`\n${texts.join('') || 'Nothing was skipped.\n'}`)
  const seconds = Math.round((performance.now() - started) / 1_000)
  const outcome = failed.length === 0 ? 'Everything passed' : `Failed: ${failed.join(', ')}`
  process.stdout.write(`${outcome}. ${seconds} s in all.\n`)
}
