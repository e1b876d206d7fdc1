import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { test } from 'node:test'
import { BrokerError } from '@sluice/core'
import { hashPassword, importHash, verifyPassword } from './passwords.ts'

test('a password verifies against its own hash, which is salted and memory-hard', async () => {
  const [first, second] = await Promise.all([hashPassword('pässword'), hashPassword('pässword')])
  assert.match(first, /^scrypt\$32768\$8\$3\$[\w-]{22}\$[\w-]{43}$/)
  assert.notEqual(first, second)
  assert.equal(await verifyPassword(first, 'pässword'), true)
  assert.equal(await verifyPassword(first, 'password'), false)
  assert.equal(await verifyPassword(first, ''), false)
})

test('hashes that RabbitMQ made verify, of both algorithms', async () => {
  // The example of RabbitMQ's documentation of password hashing.
  const known = 'kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR'
  const kept = importHash('rabbit_password_hashing_sha256', known)
  assert.equal(await verifyPassword(kept, 'test12'), true)
  assert.equal(await verifyPassword(kept, 'test13'), false)
  const salt = Buffer.from('01020304', 'hex')
  const digest = createHash('sha512').update(salt).update('long').digest()
  const longer = Buffer.concat([salt, digest]).toString('base64')
  const sha512 = importHash('rabbit_password_hashing_sha512', longer)
  assert.equal(await verifyPassword(sha512, 'long'), true)
  assert.equal(await verifyPassword(sha512, 'longer'), false)
})

test('what is no hash of RabbitMQ is refused', () => {
  for (const [algorithm, hash] of [
    ['rabbit_password_hashing_md5', 'AAAAAAAAAAAAAAAAAAAAAAAAAAA='],
    ['rabbit_password_hashing_sha256', 'AAAA'],
    ['toString', 'AAAA'],
  ] as const) {
    assert.throws(() => importHash(algorithm, hash), BrokerError, algorithm)
  }
})

test('no user, a user without a password and a wrong password cost the same', async () => {
  const imported = importHash(
    'rabbit_password_hashing_sha256',
    'kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR',
  )
  const cases = { known: await hashPassword('right'), none: undefined, without: '', imported }
  const fastest: Record<string, number> = {}
  for (let round = 0; round < 4; round++) {
    for (const [name, kept] of Object.entries(cases)) {
      const { user: before } = process.cpuUsage()
      assert.equal(await verifyPassword(kept, 'wrong'), false)
      const cost = process.cpuUsage().user - before
      fastest[name] = Math.min(fastest[name] ?? Number.POSITIVE_INFINITY, cost)
    }
  }
  const costs = Object.values(fastest)
  assert.ok(Math.max(...costs) < 1.5 * Math.min(...costs), JSON.stringify(fastest))
})
