/** What a transaction may hold in memory, though nothing is ever committed. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { AmqpError } from '@sluice/amqp'
import { plainMessage } from '@sluice/testkit'
import { Transaction } from './transaction.ts'

const MB = 1024 * 1024
const NOBODY = undefined as never // neither is asked before the end

test('publishes wait up to 128 MiB, one message whatever its size', () => {
  const body = Buffer.alloc(100 * MB)
  const transaction = new Transaction(NOBODY, NOBODY)
  transaction.publish(plainMessage({ body }), false)
  const tooMuch = () => transaction.publish(plainMessage({ body }), false)
  assert.throws(tooMuch, (error) => error instanceof AmqpError && error.replyCode === 406)
  const large = plainMessage({ body: Buffer.alloc(130 * MB) })
  new Transaction(NOBODY, NOBODY).publish(large, false)
})
