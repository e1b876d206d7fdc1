/** Requests as two processes see them: accepted by one, noted and waited for by the other. */
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { type TestContext, test } from 'node:test'
import { waitFor, withRedis } from '@sluice/testkit'
import { openStore } from './index.ts'
import type { KeptAnswer, RequestRecord } from './requests.ts'

const RECORD: RequestRecord = { vhost: '/', ingest: 'shop', open: true, atMs: 5, print: 'p' }
const ANSWER: KeptAnswer = {
  status: 201,
  headers: [['content-type', 'text/plain']],
  body: Buffer.from([0, 255, 10]),
  truncated: false,
  atMs: 7,
}
const KEPT = { keepMs: 60_000, answer: ANSWER, record: RECORD }
const never = new AbortController().signal

const waitersOf = (id: string) => `sluice:{request/r/${id.slice(0, 8)}}:${id}:waiters`

async function twoProcesses(t: TestContext) {
  const { url } = await withRedis(t)
  const stores = await Promise.all(
    [1, 2].map(() => openStore({ url, report: (error) => assert.fail(String(error)) })),
  )
  t.after(() => Promise.all(stores.map((store) => store.close())))
  const [here, there] = stores as [(typeof stores)[0], (typeof stores)[0]]
  return { here, there, id: randomUUID() }
}

test('what one process accepts another finds, and nobody finds what was never accepted', async (t) => {
  const { here, there, id } = await twoProcesses(t)
  await here.requests.accept(id, RECORD)
  assert.deepEqual(await there.requests.find(id), {
    state: 'waiting',
    record: RECORD,
    answer: undefined,
  })
  assert.equal(await there.requests.find(randomUUID()), undefined)
})

test('what is accepted together is kept one by one', async (t) => {
  const { here, there } = await twoProcesses(t)
  const ids = Array.from({ length: 600 }, () => here.requests.newId())
  assert.equal(new Set(ids).size, 600)
  await Promise.all(ids.map((id) => here.requests.accept(id, { ...RECORD, print: id })))
  for (const id of ids) assert.equal((await there.requests.find(id))?.record.print, id)
})

test('accepting again changes nothing, also once it was answered', async (t) => {
  const { here, there, id } = await twoProcesses(t)
  await here.requests.note(id, 'delivered', KEPT) // quicker than the record: both are on their way
  await there.requests.accept(id, { ...RECORD, ingest: 'other' })
  const found = await here.requests.find(id)
  assert.equal(found?.state, 'delivered')
  assert.deepEqual(found?.record, { ...RECORD, atMs: 0, print: '' })
})

test('an answer is kept to the byte, and expires with its record', async (t) => {
  const { here, there, id } = await twoProcesses(t)
  await here.requests.accept(id, RECORD)
  await here.requests.note(id, 'delivered', { ...KEPT, keepMs: 80 })
  assert.deepEqual((await there.requests.find(id))?.answer, ANSWER)
  await waitFor(async () => (await there.requests.find(id)) === undefined)
})

test('a request that was delivered stays so; a dead one may still be delivered', async (t) => {
  const { here, id } = await twoProcesses(t)
  const { requests } = here
  const stateAfter = async (state: 'failed' | 'dead' | 'delivered') => {
    await requests.note(id, state, { keepMs: 60_000, record: RECORD })
    return (await requests.find(id))?.state
  }
  await requests.accept(id, RECORD)
  assert.equal(await stateAfter('failed'), 'failed')
  assert.equal(await stateAfter('dead'), 'dead')
  assert.equal(await stateAfter('delivered'), 'delivered')
  assert.equal(await stateAfter('failed'), 'delivered')
  assert.equal(await stateAfter('dead'), 'delivered')
})

test('who dies without an answer keeps the last one', async (t) => {
  const { here, id } = await twoProcesses(t)
  await here.requests.accept(id, RECORD)
  await here.requests.note(id, 'failed', KEPT)
  await here.requests.note(id, 'dead', { keepMs: 60_000, record: RECORD })
  assert.deepEqual((await here.requests.find(id))?.answer, ANSWER)
})

test('a waiter is woken at once by whoever ends the request, in any process', async (t) => {
  const { here, there } = await twoProcesses(t)
  // Looking takes a second each time; a busy machine does not make the hint late each time.
  let quickestMs = Number.POSITIVE_INFINITY
  for (let tries = 5; tries > 0 && quickestMs >= 900; tries--) {
    const id = here.requests.newId()
    await here.requests.accept(id, RECORD)
    const from = performance.now()
    const waiting = [here, there].map(({ requests }) => requests.wait(id, 30_000, never))
    await waitFor(async () => (await here.redis.scard(waitersOf(id))) === 2)
    await there.requests.note(id, 'failed', KEPT)
    await there.requests.note(id, 'delivered', KEPT)
    for (const found of await Promise.all(waiting)) assert.equal(found?.state, 'delivered')
    quickestMs = Math.min(quickestMs, performance.now() - from)
  }
  assert.ok(quickestMs < 900, 'by the hint, not by looking')
})

test('a lost hint costs a second, not the answer', async (t) => {
  const { here, there, id } = await twoProcesses(t)
  await here.requests.accept(id, RECORD)
  const waiting = here.requests.wait(id, 30_000, never)
  const waiters = waitersOf(id)
  await waitFor(async () => (await there.redis.del(waiters)) === 1)
  await there.requests.note(id, 'dead', KEPT)
  assert.equal((await waiting)?.state, 'dead')
})

test('a wait ends when its time is over, when its caller is gone, and when nothing is there', async (t) => {
  const { here, id } = await twoProcesses(t)
  assert.equal(await here.requests.wait(id, 30_000, never), undefined)
  await here.requests.accept(id, RECORD)
  assert.equal((await here.requests.wait(id, 50, never))?.state, 'waiting')
  const gone = new AbortController()
  const waiting = here.requests.wait(id, 30_000, gone.signal)
  setImmediate(() => gone.abort())
  assert.equal((await waiting)?.state, 'waiting')
})
