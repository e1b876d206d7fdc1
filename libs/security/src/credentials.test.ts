import assert from 'node:assert/strict'
import { mkdtemp, readdir, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { Access } from './access.ts'
import { keptPassword } from './admin-password.ts'
import { Credentials } from './credentials.ts'
import { hashPassword } from './passwords.ts'

const credentials = new Credentials('admin', 'pass:wörd')
const basic = (text: string) => `Basic ${Buffer.from(text).toString('base64')}`

async function folder(t: TestContext): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'sluice-'))
  t.after(() => rm(dir, { recursive: true }))
  return dir
}

test('Basic with name and password, or Bearer with the password, proves the admin', () => {
  for (const header of [
    basic('admin:pass:wörd'),
    basic('admin:pass:wörd').replace('Basic', 'bASIC'),
    'Bearer pass:wörd',
    'bearer  pass:wörd ',
  ]) {
    assert.deepEqual(
      credentials.authenticate(header),
      { kind: 'administrator', name: 'admin' },
      header,
    )
  }
})

test('anything else proves nothing', async () => {
  for (const header of [
    undefined,
    '',
    ' ',
    'Basic',
    'Basic ',
    'Bearer',
    'Bearer ',
    'pass:wörd',
    basic('admin:'),
    basic('admin:pass:word'),
    basic('Admin:pass:wörd'),
    basic('pass:wörd'),
    'Bearer admin:pass:wörd',
    'Digest pass:wörd',
    `Bearer ${'x'.repeat(100_000)}`,
  ]) {
    assert.equal(await credentials.authenticate(header), undefined, header?.slice(0, 40))
  }
})

test('the password cannot be read back from the credentials', () => {
  assert.doesNotMatch(JSON.stringify(credentials) + String(credentials), /wörd/)
})

test('a generated password is kept, readable by its owner only', async (t) => {
  const dir = join(await folder(t), 'new')
  const password = await keptPassword(dir)
  assert.match(password, /^[\w-]{32}$/)
  assert.equal(await keptPassword(dir), password)
  assert.equal((await stat(join(dir, 'admin-password'))).mode & 0o777, 0o600)
})

test('processes that start at once agree on one password and leave nothing else behind', async (t) => {
  const dir = await folder(t)
  for (let round = 0; round < 20; round++) {
    const home = join(dir, String(round))
    // Each starts as soon as the one before has looked and found nothing.
    const late = Array.from({ length: 20 }, async (_, i) => {
      for (let turn = 0; turn < i; turn++) await new Promise(setImmediate)
      return keptPassword(home)
    })
    assert.equal(new Set(await Promise.all(late)).size, 1)
    assert.deepEqual(await readdir(home), ['admin-password'])
  }
})

test('a file opened to others is closed again, and an empty one is refused', async (t) => {
  const dir = await folder(t)
  const path = join(dir, 'admin-password')
  await writeFile(path, 'chosen\n', { mode: 0o644 })
  assert.equal(await keptPassword(dir), 'chosen')
  assert.equal((await stat(path)).mode & 0o777, 0o600)
  await writeFile(path, '\n')
  await assert.rejects(keptPassword(dir), /is empty/)
})

test('failed logins are counted, but those by keys, which cannot be guessed', async () => {
  const limited = new Credentials('admin', 'pass:wörd', { failuresPerMinute: 3 })
  const at = '10.0.0.1'
  const key = `Bearer sluice_0123456789abcdef_${'x'.repeat(43)}`
  for (let i = 0; i < 20; i++) assert.equal(await limited.authenticate(key, at), undefined)
  for (let i = 0; i < 4; i++) {
    assert.equal(await limited.authenticate(`Bearer guess ${i}`, at), undefined)
  }
  assert.throws(() => limited.authenticate('Bearer pass:wörd', at), /Too many failed logins/)
  assert.equal(await limited.authenticate(key, at), undefined, 'a key is heard still')
  assert.deepEqual(limited.authenticate('Bearer pass:wörd', '10.0.0.2'), {
    kind: 'administrator',
    name: 'admin',
  })
  assert.ok(await limited.authenticate('Bearer pass:wörd', '10.0.0.2'))
})

test('a password is verified once for all requests that come with it meanwhile', async () => {
  const hash = await hashPassword('right')
  const documents: Record<string, unknown> = { ann: { passwordHash: hash, tags: [] } }
  const access = new Access({
    administrator: 'admin',
    directory: () => ({ get: (kind, _, name) => (kind === 'user' ? documents[name] : undefined) }),
    nowMs: Date.now,
  })
  const credentials = new Credentials('admin', 'pass:wörd', { access })
  const started = process.cpuUsage().user
  const all = Array.from({ length: 50 }, () => credentials.authenticate(basic('ann:right')))
  const principals = await Promise.all(all)
  assert.ok(principals.every((principal) => principal?.name === 'ann'))
  assert.ok(process.cpuUsage().user - started < 2_000_000, 'of 50 verifications it would be 10 s')
  assert.ok(!(credentials.authenticate(basic('ann:right')) instanceof Promise), 'it is known')
  documents['ann'] = { passwordHash: await hashPassword('another'), tags: [] }
  access.changed()
  assert.equal(await credentials.authenticate(basic('ann:right')), undefined, 'until it changes')
})
