/** What is published: packed, installed into an empty folder, and used there. */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { promisify } from 'node:util'
import { PASSWORD, withBroker } from '../support/broker.ts'

const run = promisify(execFile)
const ROOT = new URL('../..', import.meta.url).pathname

/** A folder in which the package is installed, and nothing else. */
async function installed(t: TestContext): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-client-'))
  t.after(() => rmSync(folder, { recursive: true }))
  const dist = join(folder, 'dist')
  const app = join(folder, 'app')
  mkdirSync(app)
  await run(process.execPath, [join(ROOT, 'libs/client/build.mjs'), dist])
  const { stdout } = await run('npm', ['pack', '--json', '--pack-destination', folder], {
    cwd: dist,
  })
  const packed: { filename: string } | { filename: string }[] = JSON.parse(stdout)
  const { filename } = Object.values(packed)[0] as { filename: string }
  writeFileSync(join(app, 'package.json'), '{ "type": "module", "private": true }')
  const tarball = join(folder, filename.replace('@', '').replace('/', '-'))
  await run('npm', ['install', '--offline', '--no-audit', '--no-fund', tarball], { cwd: app })
  return app
}

const PROGRAM = `
import { Sluice, SluiceError, type Delivery } from '@sluice/client'

interface Job { readonly photo: number }
const [url = '', vhost = '', token = ''] = process.argv.slice(2)
await using sluice = new Sluice({ url, vhost, token })
await sluice.topology.declareQueue('jobs')
const jobs = sluice.queue<Job>('jobs')
for (const via of ['websocket', 'http'] as const) {
  await jobs.publish({ photo: 7 }, { headers: { a: 1 } })
  const { promise, resolve } = Promise.withResolvers<Delivery<Job>>()
  const consumer = jobs.consume((delivery) => resolve(delivery), { via })
  const { body, headers } = await promise
  await consumer.drain()
  console.log(via, body.photo satisfies number, headers['a'])
}
try {
  await sluice.topology.getQueue('none')
} catch (error) {
  console.log(error instanceof SluiceError && error.code)
}
`

test('the package installs alone, has types, and works against a broker', async (t) => {
  const app = await installed(t)
  const { http, vhost } = await withBroker(t)
  const scopes = readdirSync(join(app, 'node_modules')).filter((name) => !name.startsWith('.'))
  assert.deepEqual(scopes, ['@sluice'], 'it brings no dependency')
  const found = join(app, 'node_modules/@sluice/client')
  assert.equal(JSON.parse(readFileSync(join(found, 'package.json'), 'utf8')).private, undefined)
  assert.ok(readdirSync(found).includes('README.md') && readdirSync(found).includes('LICENSE'))

  writeFileSync(join(app, 'program.ts'), PROGRAM)
  const lib = ['--lib', 'ESNext,DOM,DOM.Iterable']
  const how = ['--module', 'NodeNext', '--target', 'ESNext', '--strict', '--noEmit', ...lib]
  const types = ['--typeRoots', join(ROOT, 'node_modules/@types'), '--types', 'node']
  const tsc = join(ROOT, 'node_modules/.bin/tsc')
  await run(tsc, [...how, ...types, '--skipLibCheck', 'false', 'program.ts'], { cwd: app })

  const { stdout } = await run(process.execPath, ['program.ts', http, vhost, PASSWORD], {
    cwd: app,
  })
  assert.equal(stdout, 'websocket 7 1\nhttp 7 1\nqueue_not_found\n')
})
