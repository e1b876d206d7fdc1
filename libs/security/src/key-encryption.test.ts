import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { json } from 'node:stream/consumers'
import { type TestContext, test } from 'node:test'
import { LocalKey, parseKeys } from './key-encryption.ts'
import { Kms } from './kms.ts'

const MATERIAL = randomBytes(64)

test('what a key wrapped it unwraps, for the same context alone', async () => {
  const key = new LocalKey(randomBytes(32))
  const { kek, wrapped } = await key.wrap(MATERIAL, 'of a queue')
  assert.equal(kek, key.id)
  assert.deepEqual(await key.unwrap(wrapped, 'of a queue'), MATERIAL)
  assert.equal(await key.unwrap(wrapped, 'of another'), undefined)
  assert.equal(await new LocalKey(randomBytes(32)).unwrap(wrapped, 'of a queue'), undefined)
  assert.equal(await key.unwrap('', 'of a queue'), undefined)
  const bytes = Buffer.from(wrapped, 'base64url')
  bytes[20]! ^= 1
  assert.equal(await key.unwrap(bytes.toString('base64url'), 'of a queue'), undefined)
})

test('keys are 32 bytes in hex or base64, one or several, and nothing of a wrong one is told', () => {
  const [a, b] = [randomBytes(32), randomBytes(32)]
  const ids = (text: string) => parseKeys(text).map(({ id }) => id)
  const both = [new LocalKey(a).id, new LocalKey(b).id]
  assert.deepEqual(ids(`${a.toString('hex')},${b.toString('base64')}`), both)
  assert.deepEqual(ids(`${a.toString('base64url')}\n${b.toString('hex').toUpperCase()}\n`), both)
  assert.deepEqual(ids(''), [])
  const wrong = `${a.toString('hex')} ${b.toString('hex')}0`
  assert.throws(
    () => parseKeys(wrong),
    ({ message }: Error) => /key 2 is not/.test(message) && !message.includes(b.toString('hex')),
  )
})

interface Asked {
  readonly url: string
  readonly authorization: string | undefined
  readonly body: { plaintext?: string; wrapped?: string; context: string }
}

/** A KMS that keeps what it wraps, or answers as it is told. */
async function kmsServer(t: TestContext, answer?: { status: number; body: string }) {
  const asked: Asked[] = []
  const kept = new Map<string, Asked['body']>()
  const server = createServer(async (req, res) => {
    const body = (await json(req)) as Asked['body']
    asked.push({ url: req.url!, authorization: req.headers.authorization, body })
    if (answer) return res.writeHead(answer.status).end(answer.body)
    if (req.url === '/keys/wrap') {
      const wrapped = `w${kept.size}`
      kept.set(wrapped, body)
      return res.end(JSON.stringify({ wrapped }))
    }
    const known = kept.get(body.wrapped!)
    if (known?.context !== body.context) return res.writeHead(403).end()
    return res.end(JSON.stringify({ plaintext: known.plaintext }))
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    server.closeAllConnections()
    server.close()
  })
  const { port } = server.address() as AddressInfo
  return { kms: new Kms(`http://127.0.0.1:${port}/keys/`, 'a token'), asked }
}

test('a KMS wraps and unwraps, for the same context alone, and is sent the token', async (t) => {
  const { kms, asked } = await kmsServer(t)
  const { kek, wrapped } = await kms.wrap(MATERIAL, 'of a queue')
  assert.equal(kek, 'kms')
  assert.deepEqual(await kms.unwrap(wrapped, 'of a queue'), MATERIAL)
  assert.equal(await kms.unwrap(wrapped, 'of another'), undefined)
  assert.equal(await kms.unwrap('unknown', 'of a queue'), undefined)
  assert.ok(asked.every(({ authorization }) => authorization === 'Bearer a token'))
})

test('a KMS that is not well is an error, which quotes nothing of its answer', async (t) => {
  const secret = MATERIAL.toString('base64')
  for (const [status, body] of [
    [500, secret],
    [200, secret],
    [200, '{}'],
    [200, 'x'.repeat(100_000)],
    [302, ''],
  ] as const) {
    const { kms } = await kmsServer(t, { status, body })
    const isQuiet = (error: Error) => !`${error.stack}${error.cause}`.includes(secret)
    await assert.rejects(kms.unwrap('w0', 'of a queue'), isQuiet)
    await assert.rejects(kms.wrap(MATERIAL, 'of a queue'), isQuiet)
  }
})
