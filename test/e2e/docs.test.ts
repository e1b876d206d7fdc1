/**
 * Every command in docs/ and in README.md works, and prints what the page says.
 *
 * Method: a broker on a Redis of its own, kept as `npm start` keeps one; each page's commands in one
 * shell, as pasted (test/support/doc-commands.ts), one page after the other.
 */
import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { text } from 'node:stream/consumers'
import { type TestContext, test } from 'node:test'
import { privateRedis } from '@sluice/testkit'
import { AUTHORIZATION, withBroker } from '../support/broker.ts'
import { hidesRefusals, isAsSaid, scriptOf, stepsOf } from '../support/doc-commands.ts'

const ROOT = new URL('../../', import.meta.url).pathname
const LINES_MAX = 120
/** With the project's own commands, as npx finds them. */
const PATH = [join(ROOT, 'node_modules/.bin'), process.env['PATH']].join(delimiter)
/** Made from lists, or lists themselves: nothing in them to run. */
const WITHOUT_COMMANDS = [
  'client-api.md',
  'README.md',
  'configuration.md',
  'errors.md',
  'metrics.md',
  'benchmarks.md',
  'benchmarks-parts.md',
]

const pages = readdirSync(join(ROOT, 'docs')).filter((name) => name.endsWith('.md'))

for (const name of pages) {
  test(`docs/${name} is short, and has a command that runs`, () => {
    const page = readFileSync(join(ROOT, 'docs', name), 'utf8')
    const steps = stepsOf(page)
    const lines = page.split('\n').length - 1
    const fits = lines <= LINES_MAX || name === 'client-api.md' // as long as what it lists
    assert.ok(fits, `${lines} lines: split it, a page has at most ${LINES_MAX}`)
    assert.ok(WITHOUT_COMMANDS.includes(name) || steps.length > 0, 'add an example, marked sh')
    for (const step of steps) {
      const remedy = `line ${step.line}: write curl -fsS, or print %{http_code}`
      assert.ok(!hidesRefusals(step), remedy)
    }
  })
}

test('docs/README.md names every page', () => {
  const index = readFileSync(join(ROOT, 'docs/README.md'), 'utf8')
  for (const name of pages) {
    if (name !== 'README.md') assert.ok(index.includes(`(${name})`), `it lacks ${name}`)
  }
})

test('the commands of every page work, and print what it says', async (t) => {
  if (!has('curl') || !has('bash')) {
    t.skip('no curl, or no bash')
    return
  }
  const redis = await privateRedis(t)
  const env = {
    SLUICE_PUSH_ALLOW: '127.0.0.1', // where the pages' own endpoints are
    SLUICE_ENCRYPTION_KEY: 'd0'.repeat(32),
  }
  const { http } = await withBroker(t, { redisUrl: redis.url, env })
  const files = pages.map((name) => `docs/${name}`)
  if (existsSync(join(ROOT, 'README.md'))) files.push('README.md')
  for (const file of files) await t.test(file, (t) => runPage(t, file, http))
})

async function runPage(t: TestContext, file: string, http: string): Promise<void> {
  const page = readFileSync(join(ROOT, file), 'utf8')
  const all = stepsOf(page)
  // What README starts with (npm start) is another test's.
  const steps = file === 'README.md' ? all.filter(({ commands }) => /\$SLUICE/.test(commands)) : all
  const output = mkdtempSync(join(tmpdir(), 'sluice-docs-'))
  t.after(() => rmSync(output, { recursive: true }))
  const child = spawn('bash', ['-c', scriptOf(steps)], {
    cwd: output,
    env: { ...process.env, PATH, OUTPUT: output, SLUICE: http, AUTH: CREDENTIAL },
    stdio: ['ignore', 'ignore', 'pipe'],
    detached: true, // a group of its own: what a page starts ends with it
  })
  t.after(() => endGroup(child.pid!))
  const ended = once(child, 'close')
  const complaints = await text(child.stderr)
  const [code] = await ended
  assert.equal(code, 0, `${file}: ${complaints}`)
  for (const [index, { line, prints }] of steps.entries()) {
    if (prints === undefined) continue
    const printed = readFileSync(join(output, String(index)), 'utf8')
    const difference = `${file}:${line} says\n${prints.join('\n')}\nand it printed\n${printed}`
    assert.ok(isAsSaid(printed, prints), difference)
  }
}

function endGroup(pid: number): void {
  try {
    process.kill(-pid, 'SIGKILL')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error // all have ended
  }
}

const CREDENTIAL = `admin:${AUTHORIZATION.slice('Bearer '.length)}`

function has(command: string): boolean {
  return spawnSync(command, ['--version']).status === 0
}
