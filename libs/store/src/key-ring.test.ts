import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { test } from 'node:test'
import { BrokerError } from '@sluice/core'
import { DataKey, KEY_MATERIAL_SIZE } from './data-key.ts'
import { KeyRing } from './key-ring.ts'
import { unavailable } from './redis.ts'

const KEY = new DataKey(
  { id: 1, vhost: '/', queue: 'q', generation: 1 },
  randomBytes(KEY_MATERIAL_SIZE),
)

/** A ring whose keys are made by these, one after the other; an error is thrown. */
function ringOf(...made: readonly (DataKey | Promise<DataKey> | Error | undefined)[]) {
  const reported: unknown[] = []
  const ring = new KeyRing((error) => reported.push(error))
  const next = made.values()
  let asked = 0
  ring.follow({
    wraps: () => true,
    async make() {
      asked++
      const { value } = next.next()
      if (value instanceof Error) throw value
      return value
    },
    look: async () => {},
    exists: () => false,
    broken: () => [],
  })
  return { ring, reported, asked: () => asked }
}

function replied(message: string): Error {
  const error = new Error(message)
  error.name = 'ReplyError'
  return error
}

test('whoever asks meanwhile waits for the same first key', async () => {
  const { ring, asked } = ringOf(KEY)
  const [first, second] = [ring.sealing('/', 'q'), ring.sealing('/', 'q')]
  assert.equal(await first, KEY)
  assert.equal(await second, KEY)
  assert.equal(asked(), 1)
})

test('whoever asks in the moment in which it is made comes behind those who wait for it', async () => {
  const { promise, resolve } = Promise.withResolvers<DataKey>()
  const { ring } = ringOf(promise)
  const told: string[] = []
  const ask = (who: string) => {
    const key = ring.sealing('/', 'q')
    if (key instanceof Promise) return key.then(() => told.push(who))
    return told.push(who)
  }
  const first = ask('first')
  resolve(KEY)
  ring.add(KEY)
  const others: unknown[] = []
  for (let left = 20; left > 0; left--) {
    await undefined
    others.push(ask('other'))
  }
  await Promise.all([first, ...others])
  assert.equal(told.indexOf('first'), 0, told.join())
})

test('why no first key can be made is told as what becomes of the message', async () => {
  const why = async (made: Error | undefined) => await ringOf(made).ring.sealing('/', 'q')
  assert.equal(await why(undefined), 'no-key')
  assert.equal(await why(new BrokerError('queue_not_found', '')), 'gone')
  assert.equal(await why(new BrokerError('vhost_not_found', '')), 'gone')
  assert.equal(await why(unavailable(replied('OOM command')) as Error), 'memory-high')
  assert.equal(await why(unavailable(replied('MISCONF Redis is')) as Error), 'disk-low')
  assert.equal(await why(unavailable(replied('NOREPLICAS Not')) as Error), 'unavailable')
})

test('a first key is tried again while Redis does not answer, and not after the end', async () => {
  const away = unavailable(new Error('Connection is closed.')) as Error
  const { ring, asked } = ringOf(away, away, KEY)
  assert.equal(await ring.sealing('/', 'q'), KEY)
  assert.equal(asked(), 3)

  const { ring: ending, asked: askedOf } = ringOf(away, away, KEY)
  const making = ending.sealing('/', 'q')
  ending.follow(undefined)
  assert.equal(await making, 'unavailable')
  assert.equal(askedOf(), 1)
})

test('a fault in making a key is reported, though nobody waits for the key', async () => {
  const { ring, reported } = ringOf(new TypeError('a bug'))
  ring.sealing('/', 'q')
  assert.equal(await ring.sealing('/', 'q'), 'no-key')
  assert.match(String(reported), /a bug/)
})
