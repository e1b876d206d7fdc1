/** The client's way with dead letters, against a whole broker. */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import {
  type BatchMessage,
  type DeadLetterFilter,
  type DeadLetters,
  type Letter,
  type RedriveStatus,
  Sluice,
  SluiceError,
} from '@sluice/client'
import { waitFor } from '@sluice/testkit'
import { PASSWORD, withBroker } from '../support/broker.ts'

interface Scene {
  readonly sluice: Sluice
  readonly vhost: string
  readonly letters: DeadLetters
  ready(queue: string): Promise<number>
  /** Bodies of what is ready in a queue, taken out of it. */
  taken(queue: string, count: number): Promise<unknown[]>
}

/** Messages that expired in `src`, published by amq.topic, and lie in `dead`. */
async function withLetters(t: TestContext, messages: readonly BatchMessage[]): Promise<Scene> {
  const { http: url, vhost } = await withBroker(t)
  const sluice = new Sluice({ url, vhost, token: PASSWORD })
  t.after(() => sluice.close())
  const { topology } = sluice
  const args = { 'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': 'dead' }
  await topology.declareQueue('dead', { arguments: { 'x-dedup-window': 60_000 } })
  await topology.declareQueue('src', { arguments: { ...args, 'x-dedup-window': 60_000 } })
  await topology.bind({ source: 'amq.topic', destination: 'src', routingKey: 'order.#' })
  const ready = async (queue: string) => (await topology.getQueue(queue)).messages.ready
  const target = { exchange: 'amq.topic', routingKey: 'order.new' }
  const dying = messages.map((message) => ({ ...message, ttlMs: 1 }))
  assert.equal((await sluice.publishBatch(target, dying)).published, messages.length)
  await waitFor(async () => (await ready('dead')) === messages.length, { what: 'dead letters' })
  const taken = async (queue: string, count: number) => {
    const bodies: unknown[] = []
    const consumer = sluice.consume(queue, ({ body }) => void bodies.push(body))
    await waitFor(() => bodies.length >= count, { what: `${count} messages in ${queue}` })
    await consumer.drain()
    return bodies
  }
  return { sluice, vhost, letters: sluice.deadLetters('dead'), ready, taken }
}

const numbered = (count: number) =>
  Array.from({ length: count }, (_, n) => ({ body: `letter ${n}`, headers: { odd: n % 2 === 1 } }))

async function all(found: AsyncIterable<Letter>): Promise<Letter[]> {
  const letters: Letter[] = []
  for await (const letter of found) letters.push(letter)
  return letters
}

const bodiesOf = (letters: readonly Letter[]) => letters.map(({ body }) => body)

async function codeOf(promise: Promise<unknown>): Promise<string> {
  const error = await promise.then(
    () => assert.fail('it succeeded'),
    (error) => error,
  )
  assert.ok(error instanceof SluiceError, String(error))
  return error.code
}

test('a search goes through all pages, in order, and stops when it is told', async (t) => {
  const { letters, ready } = await withLetters(t, numbered(50))
  const bodies = numbered(50).map(({ body }) => body)
  assert.deepEqual(bodiesOf(await all(letters.search({ pageSize: 7 }))), bodies)
  for await (const { body } of letters.search({ pageSize: 7 })) {
    if (body === 'letter 10') break
  }
  const first = await letters.searchPage({ pageSize: 30 })
  assert.deepEqual([first.letters.length, first.scanned], [30, 30])
  assert.deepEqual(bodiesOf(await all(letters.search({ after: first.next! }))), bodies.slice(30))
  const reason = new Error('enough')
  const stopped = all(letters.search({ signal: AbortSignal.abort(reason) }))
  await assert.rejects(stopped, reason)
  assert.equal(await ready('dead'), 50)
})

test('every filter says which letters are meant, to a search and to a redrive', async (t) => {
  const { letters } = await withLetters(t, numbered(20))
  const future = new Date('2999-01-01T00:00:00Z')
  const cases: [DeadLetterFilter, number][] = [
    [{}, 20],
    [{ reason: 'expired', diedIn: 'src' }, 20],
    [{ reason: 'rejected' }, 0],
    [{ diedIn: 'elsewhere' }, 0],
    [{ header: 'odd=true' }, 10],
    [{ header: 'even' }, 0],
    [{ exchange: 'amq.topic', routingKey: 'order.new' }, 20],
    [{ routingKey: 'order.old' }, 0],
    [{ text: 'letter 1' }, 11],
    [{ since: future }, 0],
    [{ until: future, text: 'letter 7', header: 'odd=true' }, 1],
  ]
  for (const [filter, count] of cases) {
    const what = JSON.stringify(filter)
    assert.equal((await all(letters.search(filter))).length, count, what)
    const redrive = await letters.startRedrive({ filter, dryRun: true })
    const { state, redriven, scanned } = await redrive.ended({ everyMs: 20 })
    assert.deepEqual([state, redriven, scanned], ['done', count, 20], what)
  }
})

test('a letter says what it was and why it died', async (t) => {
  const { letters, sluice, vhost } = await withLetters(t, [
    { body: { order: 7 }, messageId: 'm-7' },
  ])
  const [found] = await all(letters.search())
  const letter = await letters.get(found!.id)
  assert.deepEqual(letter.body, { order: 7 })
  assert.equal(letter.properties.messageId, 'm-7')
  const { queue, reason, attempts, history } = letter.death
  assert.deepEqual([queue, reason, attempts], ['src', 'expired', []])
  assert.deepEqual(
    history.map(({ at: _, ...death }) => death),
    [
      {
        ...{ queue: 'src', reason: 'expired', count: 1 },
        ...{ exchange: 'amq.topic', routingKeys: ['order.new'] },
      },
    ],
  )
  assert.equal(JSON.parse(JSON.stringify(letter)).body, '{"order":7}', 'as the API has it')
  assert.equal(await codeOf(letters.get('0'.repeat(24))), 'message_not_found')
  await sluice.publish({ queue: 'dead' }, 'alive')
  const path = `/v1/vhosts/${encodeURIComponent(vhost)}/queues/dead/messages`
  const { messages } = (await sluice.request('GET', path)) as { messages: { id: string }[] }
  assert.equal(await codeOf(letters.get(messages[1]!.id)), 'invalid_request')
})

test('an edited copy is what it was told to be, and stored once', async (t) => {
  const messages = [{ body: { n: 1 }, headers: { a: 1, b: 2 } }, { body: 'text' }, { body: 'x' }]
  const { letters, sluice, ready, taken } = await withLetters(t, messages)
  const [json, text, bytes] = await all(letters.search())
  const changes = { body: { n: 2 }, headers: { c: 3 }, removeHeaders: ['a'] }
  const copied = await letters.sendCopy(json!.id, changes)
  assert.deepEqual(copied, { queues: ['src'], duplicate: false, removed: false })
  assert.equal((await letters.sendCopy(json!.id, changes)).duplicate, true)
  const routed = { exchange: 'amq.topic', routingKey: 'order.late', remove: true }
  assert.deepEqual(await letters.sendCopy(text!.id, routed), {
    ...{ queues: ['src'], duplicate: false, removed: true },
  })
  await sluice.topology.declareQueue('other')
  const raw = { body: new Uint8Array([0, 255]), contentType: 'image/png', queue: 'other' }
  assert.deepEqual((await letters.sendCopy(bytes!.id, raw)).queues, ['other'])
  assert.deepEqual(await taken('src', 2), [{ n: 2 }, 'text'])
  assert.deepEqual(await taken('other', 1), [new Uint8Array([0, 255])])
  assert.equal(await ready('dead'), 2, 'only one was to be removed')
  const nowhere = { exchange: 'amq.topic', routingKey: 'nobody', remove: true }
  assert.equal(await codeOf(letters.sendCopy(json!.id, nowhere)), 'unroutable')
  assert.equal(await codeOf(letters.sendCopy(json!.id, { queue: 'none' })), 'queue_not_found')
  assert.equal(await ready('dead'), 2)
})

test('a letter that is discarded is gone; one that somebody holds is not', async (t) => {
  const { letters, sluice, ready } = await withLetters(t, numbered(2))
  const [first, second] = await all(letters.search())
  assert.equal(await letters.discard(first!.id), true)
  assert.equal(await letters.discard(first!.id), false)
  assert.deepEqual(bodiesOf(await all(letters.search())), ['letter 1'])
  const gate = Promise.withResolvers<void>()
  const holder = sluice.consume('dead', () => gate.promise)
  await waitFor(async () => (await ready('dead')) === 0)
  assert.equal(await codeOf(letters.discard(second!.id)), 'in_use')
  assert.equal(await codeOf(letters.sendCopy(second!.id, { remove: true })), 'in_use')
  assert.equal(await codeOf(letters.redriveOne(second!.id)), 'in_use')
  gate.resolve()
  await holder.drain()
})

test('one letter goes back at once, and what keeps it is said', async (t) => {
  const { letters, sluice, taken } = await withLetters(t, numbered(3))
  const [first, second, third] = await all(letters.search())
  assert.equal(await letters.redriveOne(first!.id), 'src')
  assert.equal(await letters.redriveOne(second!.id, { to: 'exchange' }), '')
  const lost = letters.redriveOne(third!.id, { to: { queue: 'none' } })
  assert.equal(await codeOf(lost), 'queue_not_found')
  await sluice.topology.declareQueue('other')
  assert.equal(await letters.redriveOne(third!.id, { to: { queue: 'other' } }), 'other')
  assert.deepEqual(await taken('src', 2), ['letter 0', 'letter 1'])
  assert.deepEqual(await taken('other', 1), ['letter 2'])
})

test('a redrive is followed, paused, resumed, paced and cancelled', async (t) => {
  const { letters, ready } = await withLetters(t, numbered(800))
  const asked = { perSecond: 40, filter: { text: 'letter' } }
  const redrive = await letters.startRedrive(asked)
  assert.equal((await letters.startRedrive(asked)).id, redrive.id, 'not doubled')
  for await (const { redriven } of redrive.watch({ everyMs: 20 })) if (redriven > 5) break
  assert.equal((await redrive.pause()).state, 'paused')
  const { perSecond, state } = await redrive.resume({ perSecond: 50 })
  assert.deepEqual([perSecond, state === 'paused'], [50, false])
  assert.equal((await redrive.setRate(100)).perSecond, 100)
  const seen: RedriveStatus[] = []
  let cancelling = false
  for await (const status of letters.redrive(redrive.id).watch({ everyMs: 20 })) {
    seen.push(status)
    if (status.redriven <= 50 || cancelling) continue
    cancelling = true
    await redrive.cancel()
  }
  const { state: last, redriven, matched, skipped } = seen.at(-1)!
  assert.equal(last, 'cancelled')
  assert.deepEqual([matched, skipped], [redriven, 0])
  assert.ok(redriven > 50 && redriven < 800)
  const estimated = seen.find(({ estimatedEnd }) => estimatedEnd !== undefined)
  assert.ok(Date.parse(estimated!.estimatedEnd!) > Date.parse(estimated!.askedAt))
  await waitFor(async () => (await ready('src')) === redriven)
  assert.deepEqual(
    (await letters.listRedrives()).map(({ id, state }) => [id, state]),
    [[redrive.id, 'cancelled']],
  )
  assert.equal(await codeOf(redrive.resume()), 'in_use')
  assert.equal(await codeOf(letters.redrive('999999').status()), 'not_found')
  const stop = AbortSignal.timeout(300)
  const slow = await letters.startRedrive({ perSecond: 1 })
  await assert.rejects(slow.ended({ signal: stop }), { name: 'TimeoutError' })
  await slow.cancel()
  assert.equal((await slow.ended()).state, 'cancelled')
})
