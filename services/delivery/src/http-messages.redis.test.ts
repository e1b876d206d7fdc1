/** Pages of messages, as whoever looks into a queue turns them. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { plainMessage } from '@sluice/testkit'
import { roomClient } from '../../../libs/store/src/room-client.ts'
import { bodies, openTestQueue, publish } from '../../../libs/store/src/test-queue.ts'
import { readPage } from './http-messages.ts'

const numbers = Array.from({ length: 600 }, (_, n) => String(n))

/** The bodies of all ready messages, from cursor to cursor. */
async function readAll(queue: Parameters<typeof readPage>[0]): Promise<string[]> {
  const read: string[] = []
  for (let after = '', first = true; first || after !== ''; first = false) {
    const page = await readPage(queue, { state: 'ready', after, limit: 100 }, () => true)
    read.push(...bodies(page.messages))
    after = page.next
  }
  return read
}

test('each message is on one page, in order, however many pages there are', async (t) => {
  const { queue } = await openTestQueue(t)
  for (let from = 0; from < 600; from += 100) {
    await publish(queue, ...numbers.slice(from, from + 100))
  }
  assert.deepEqual(await readAll(queue), numbers)
})

test('the same holds where a fair waiting room gave messages their turns', async (t) => {
  const { store, queue } = await openTestQueue(t)
  const room = store.waitingRoom(queue, {
    waitingMax: 10_000,
    oldestMs: 0,
    fair: true,
    dedupWindowMs: 60_000,
  })
  for (const body of numbers) {
    const { promise, resolve } = Promise.withResolvers()
    room.publish(plainMessage({ body }), roomClient('one', 1), { appended: resolve }, 0)
    await promise
  }
  assert.deepEqual(await readAll(queue), numbers)
})
