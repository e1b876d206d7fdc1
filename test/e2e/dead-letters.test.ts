/**
 * Dead letters as an operator meets them: searched, edited, redriven by jobs that are paused,
 * cancelled, paced and killed, with reports that add up to the letter.
 */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { privateRedis, waitFor } from '@sluice/testkit'
import { deploy, type Vhost } from '../support/deployment.ts'
import { encrypt, keptBy, keysOf, open } from '../support/encryption.ts'

const DEAD = '/queues/dead'
const LAYOUT = ['router delivery', 'reaper', 'reaper']

async function start(t: TestContext, count: number, layout = LAYOUT) {
  const { url: redisUrl } = await privateRedis(t)
  const { processes, vhost: make } = await deploy(t, layout, { redisUrl })
  const vhost = await make()
  await fill(vhost, count)
  return { vhost, processes }
}

/** Letters that died in `src`, by expiry, and lie in `dead`; every third is for team red. */
async function fill(vhost: Vhost, count: number): Promise<void> {
  await vhost.queue('dead')
  const args = { 'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': 'dead' }
  await vhost.put('/queues/src', { arguments: args })
  await vhost.put('/bindings', { source: 'amq.topic', destination: 'src', routingKey: 'order.#' })
  const messages = Array.from({ length: count }, (_, n) => ({
    body: `letter ${n}`,
    ttlMs: 1,
    headers: { team: n % 3 === 0 ? 'red' : 'blue', n },
    routingKey: `order.${n % 2}`,
  }))
  for (let at = 0; at < count; at += 1_000) {
    const body = messages.slice(at, at + 1_000)
    const { status } = await vhost.router('POST', '/exchanges/amq.topic/batch', { body })
    assert.equal(status, 200)
  }
  const ready = async () => (await vhost.counts('dead'))['ready'] === count
  await waitFor(ready, { what: 'the letters to be dead', timeoutMs: 60_000 })
}

async function redrive(vhost: Vhost, body: object): Promise<string> {
  const { status, json } = await vhost.delivery('POST', `${DEAD}/redrive`, { body })
  assert.equal(status, 202, JSON.stringify(json))
  return `${DEAD}/redrives/${json.id}`
}

/** Of one letter, which is refused. */
async function refusal(vhost: Vhost, to: unknown): Promise<unknown> {
  const [letter] = (await vhost.delivery('GET', `${DEAD}/dead-letters`)).json.messages
  const { json } = await vhost.delivery('POST', `${DEAD}/redrive`, { body: { id: letter.id, to } })
  return json.title
}

const look = async (vhost: Vhost, job: string) => (await vhost.delivery('GET', job)).json

// biome-ignore lint/suspicious/noExplicitAny: a status as it came
async function ended(vhost: Vhost, job: string): Promise<any> {
  const over = async () => {
    const status = await look(vhost, job)
    assert.equal(status.matched, status.redriven + status.skipped)
    return ['done', 'cancelled', 'failed'].includes(status.state) && status
  }
  return waitFor(over, { what: 'the redrive to end', timeoutMs: 90_000 })
}

const change = async (vhost: Vhost, job: string, body: object) => {
  const { status, json } = await vhost.delivery('PUT', job, { body })
  assert.equal(status, 200, JSON.stringify(json))
  return json
}

async function drainAll(vhost: Vhost, queue: string): Promise<string[]> {
  const all: string[] = []
  for (;;) {
    const some = await vhost.drain(queue, { waitMs: 0 })
    if (some.length === 0) return all
    all.push(...some)
  }
}

async function search(vhost: Vhost, query: string): Promise<string[]> {
  const found: string[] = []
  let after = ''
  do {
    const page = `${DEAD}/dead-letters?limit=50&${query}&after=${encodeURIComponent(after)}`
    const { status, json } = await vhost.delivery('GET', page)
    assert.equal(status, 200, JSON.stringify(json))
    found.push(...json.messages.map(({ body }: { body: string }) => body))
    after = json.next ?? ''
  } while (after !== '')
  return found
}

test('a reaper killed in the middle of a paced job is replaced, and the report is exact', async (t) => {
  const { vhost, processes } = await start(t, 3_000)
  const began = performance.now()
  const job = await redrive(vhost, { filter: { header: 'team=red' }, perSecond: 100 })
  for (const [index, mark] of [
    [1, 150],
    [2, 400],
  ] as const) {
    const far = async () => (await look(vhost, job)).redriven >= mark
    await waitFor(far, { what: `${mark} letters to be back`, timeoutMs: 60_000 })
    await processes[index]!.kill9()
    await processes[index]!.restart()
  }
  const { state, matched, redriven, skipped } = await ended(vhost, job)
  assert.deepEqual(
    { state, matched, redriven, skipped },
    { state: 'done', matched: 1_000, redriven: 1_000, skipped: 0 },
  )
  assert.ok(performance.now() - began > 9_000, 'the rate is kept over time')
  const back = await drainAll(vhost, 'src')
  const red = Array.from({ length: 1_000 }, (_, n) => `letter ${3 * n}`)
  assert.deepEqual(back.toSorted(), red.toSorted())
  assert.equal((await vhost.counts('dead'))['ready'], 2_000)
})

test('a job is paused, resumed, paced and cancelled; what it says adds up', async (t) => {
  const { vhost } = await start(t, 500)
  const job = await redrive(vhost, { perSecond: 50 })
  await waitFor(async () => (await look(vhost, job)).redriven > 10, { what: 'a start' })
  assert.equal((await change(vhost, job, { paused: true })).state, 'paused')
  let before = -1
  let since = performance.now()
  const still = async () => {
    const { redriven } = await look(vhost, job)
    if (redriven !== before) since = performance.now()
    before = redriven
    return performance.now() - since > 1_500
  }
  await waitFor(still, { what: 'it to stand still' })
  await change(vhost, job, { paused: false, perSecond: 100 })
  await waitFor(async () => (await look(vhost, job)).redriven > before + 20, { what: 'more' })
  await change(vhost, job, { cancelled: true })
  const { state, redriven } = await ended(vhost, job)
  assert.equal(state, 'cancelled')
  assert.ok(redriven < 500)
  assert.equal((await drainAll(vhost, 'src')).length, redriven)
  assert.equal((await vhost.counts('dead'))['ready'], 500 - redriven)
  const late = await vhost.delivery('PUT', job, { body: { paused: true } })
  assert.equal(late.status, 409)
  const { json } = await vhost.delivery('GET', `${DEAD}/redrives`)
  assert.deepEqual(
    json.redrives.map((each: { state: string }) => each.state),
    ['cancelled'],
  )
})

test('search, dry run and redrive mean the same letters', async (t) => {
  const { vhost } = await start(t, 300, ['router delivery reaper'])
  const all = Array.from({ length: 300 }, (_, n) => n)
  const cases: [Record<string, string>, (n: number) => boolean][] = [
    [{ header: 'team=red' }, (n) => n % 3 === 0],
    [{ header: 'n=7' }, (n) => n === 7],
    [{ text: 'letter 12' }, (n) => `letter ${n}`.includes('letter 12')],
    [{ routingKey: 'order.1', reason: 'expired' }, (n) => n % 2 === 1],
    [{ diedIn: 'src', exchange: 'amq.topic', header: 'team=blue' }, (n) => n % 3 !== 0],
    [{ reason: 'rejected' }, () => false],
    [{ since: '2999-01-01T00:00:00Z' }, () => false],
    [{ until: '2999-01-01T00:00:00Z' }, () => true],
  ]
  for (const [filter, matches] of cases) {
    const expected = all.filter(matches).map((n) => `letter ${n}`)
    const found = await search(vhost, new URLSearchParams(filter).toString())
    assert.deepEqual(found.toSorted(), expected.toSorted(), JSON.stringify(filter))
    const dry = await ended(vhost, await redrive(vhost, { filter, dryRun: true }))
    assert.equal(dry.redriven, expected.length)
  }
  assert.equal((await vhost.counts('dead'))['ready'], 300, 'nothing was touched')

  const filter = { exchange: 'amq.topic', routingKey: 'order.1' }
  const routed = await ended(vhost, await redrive(vhost, { filter, to: 'exchange' }))
  assert.deepEqual([routed.redriven, routed.scanned], [150, 300])
  assert.equal((await drainAll(vhost, 'src')).length, 150)
  await vhost.queue('elsewhere')
  const some = await ended(vhost, await redrive(vhost, { to: { queue: 'elsewhere' }, limit: 20 }))
  assert.equal(some.redriven, 20)
  const gone = await ended(vhost, await redrive(vhost, { to: { queue: 'nowhere' } }))
  assert.deepEqual([gone.redriven, gone.causes], [0, { 'origin-gone': 130 }])
})

test('redrives side by side move each letter once, and each tells what it moved itself', async (t) => {
  const { vhost } = await start(t, 900)
  const asked = [{}, { to: 'exchange' }, { filter: { header: 'team=red' } }]
  const jobs = await Promise.all(asked.map((body) => redrive(vhost, { ...body, perSecond: 300 })))
  const reports = await Promise.all(jobs.map((job) => ended(vhost, job)))
  // Which of them meets how many is up to the machine.
  assert.ok(reports.filter(({ redriven }) => redriven > 0).length > 1, 'they overlap')
  let moved = 0
  for (const { state, redriven, skipped, causes } of reports) {
    assert.equal(state, 'done')
    assert.equal(causes.taken ?? 0, skipped, 'whoever comes second finds it taken')
    moved += redriven
  }
  assert.equal(moved, 900)
  const all = Array.from({ length: 900 }, (_, n) => `letter ${n}`)
  assert.deepEqual((await drainAll(vhost, 'src')).toSorted(), all.toSorted())
  assert.equal((await vhost.counts('dead'))['ready'], 0)
})

test('a letter whose target has no room, is gone or refuses stays, and the report says why', async (t) => {
  const { vhost } = await start(t, 30, ['router delivery reaper'])
  const report = async (to: unknown) => {
    const { state, redriven, causes } = await ended(vhost, await redrive(vhost, { to }))
    assert.equal(state, 'done')
    return [redriven, causes]
  }
  const small = { queue: 'small' }
  await vhost.queue('small', { 'x-max-length': 10, 'x-overflow': 'reject-publish' })
  assert.deepEqual(await report(small), [10, { full: 20 }])
  assert.deepEqual(await report(small), [0, { full: 20 }])
  assert.equal(await refusal(vhost, small), 'queue_full')
  const moved = await drainAll(vhost, 'small')
  assert.equal(moved.length, 10)

  await vhost.queue('lasting', { 'x-durability': 'replicas=1' })
  assert.deepEqual(await report({ queue: 'lasting' }), [0, { 'not-durable': 20 }])
  assert.equal(await refusal(vhost, { queue: 'lasting' }), 'durability_unavailable')
  assert.deepEqual(await report({ queue: 'nowhere' }), [0, { 'origin-gone': 20 }])
  assert.equal(await refusal(vhost, { queue: 'nowhere' }), 'queue_not_found')

  const bound = { source: 'amq.topic', destination: 'src', routingKey: 'order.#' }
  assert.equal((await vhost.router('DELETE', '/bindings', { body: bound })).status, 204)
  assert.deepEqual(await report('exchange'), [0, { unroutable: 20 }])
  assert.equal(await refusal(vhost, 'exchange'), 'unroutable')
  await vhost.router('DELETE', '/queues/src')
  assert.deepEqual(await report('queue'), [0, { 'origin-gone': 20 }])
  assert.equal(await refusal(vhost, 'queue'), 'queue_not_found')

  assert.equal((await vhost.counts('dead'))['ready'], 20)
  await vhost.queue('src')
  assert.deepEqual(await report('queue'), [20, {}])
  const all = Array.from({ length: 30 }, (_, n) => `letter ${n}`)
  assert.deepEqual([...moved, ...(await drainAll(vhost, 'src'))].toSorted(), all.toSorted())
})

test('encrypted letters are searched and redriven by what they say, as long as they can be read', async (t) => {
  const world = await open(t)
  const { vhost } = world
  await encrypt(world)
  await fill(vhost, 40)
  const seven = { text: 'letter 7', header: 'team=blue', routingKey: 'order.1', reason: 'expired' }
  assert.deepEqual(await search(vhost, new URLSearchParams(seven).toString()), ['letter 7'])
  assert.equal((await search(vhost, 'text=letter 1')).length, 11)
  assert.deepEqual(await search(vhost, 'text=LETTER'), [])
  const some = await ended(vhost, await redrive(vhost, { filter: { text: 'letter 1' } }))
  assert.deepEqual([some.redriven, some.scanned], [11, 40])
  const [{ id }] = (await vhost.delivery('GET', `${DEAD}/dead-letters?text=letter 2`)).json.messages
  const corrected = { body: { body: 'letter 2, corrected' } }
  assert.equal(
    (await vhost.delivery('POST', `${DEAD}/dead-letters/${id}/copies`, corrected)).status,
    200,
  )
  const kept = await keptBy(world)
  for (const word of ['letter 12', 'corrected', 'order.1', 'blue'])
    assert.equal(kept.indexOf(word), -1, word)
  const back = await drainAll(vhost, 'src')
  assert.equal(back.length, 12)
  assert.ok(back.includes('letter 2, corrected'))

  // Shredded, they say nothing any more: no filter means them, and no redrive touches them.
  for (const { id: key } of await keysOf(world)) {
    const { status } = await vhost.router('DELETE', `/data-keys/${key}`)
    assert.equal(status, 204)
  }
  const unread = async () => (await search(vhost, '')).length === 0
  await waitFor(unread, { what: 'the key to be forgotten' })
  assert.deepEqual(await search(vhost, 'text=letter'), [])
  const none = await ended(vhost, await redrive(vhost, {}))
  assert.deepEqual([none.matched, none.redriven], [0, 0])
  const lost = await vhost.delivery('GET', `${DEAD}/dead-letters/${id}`)
  assert.match(lost.json.detail, /cannot be read/)
})

test('an edited copy goes where it is told, once, and the original only if asked', async (t) => {
  const { vhost } = await start(t, 2, ['router delivery reaper'])
  const list = async () => (await vhost.delivery('GET', `${DEAD}/dead-letters`)).json.messages
  const [first, second] = await list()
  const copies = (id: string) => `${DEAD}/dead-letters/${id}/copies`
  const edit = { body: 'corrected', headers: { fixed: true }, removeHeaders: ['n'] }
  for (const duplicate of [false, true]) {
    const { status, json } = await vhost.delivery('POST', copies(first.id), { body: edit })
    assert.deepEqual(
      [status, json],
      [200, { queues: ['src'], duplicate, removed: false }],
      JSON.stringify(json),
    )
  }
  const [copy, ...rest] = await vhost.lease('src')
  assert.equal(rest.length, 0)
  assert.equal(copy!.body, 'corrected')
  assert.deepEqual([copy!.headers.fixed, copy!.headers.n], [true, undefined])
  assert.equal(copy!.headers.team, 'red')

  const body = { exchange: 'amq.topic', routingKey: 'order.new', remove: true }
  const { json } = await vhost.delivery('POST', copies(second.id), { body })
  assert.deepEqual(json, { queues: ['src'], duplicate: false, removed: true })
  assert.deepEqual(await vhost.drain('src'), ['letter 1'])
  assert.deepEqual(
    (await list()).map(({ id }: { id: string }) => id),
    [first.id],
  )
  const lost = { exchange: 'amq.topic', routingKey: 'nobody', remove: true }
  const unroutable = await vhost.delivery('POST', copies(first.id), { body: lost })
  assert.equal(unroutable.json.type, 'urn:sluice:error:unroutable')
  assert.equal((await list()).length, 1)
})

test('what makes no sense is refused, and says why', async (t) => {
  const { vhost } = await start(t, 1, ['router delivery reaper'])
  const bad: [string, string, object?][] = [
    ['GET', '/dead-letters?reason=boredom'],
    ['GET', '/dead-letters?since=yesterday'],
    ['GET', '/dead-letters?colour=blue'],
    ['GET', '/dead-letters?after=nonsense'],
    ['GET', `/dead-letters?text=${'x'.repeat(2_000)}`],
    ['GET', '/dead-letters?header==x'],
    ['POST', '/redrive', { filter: { colour: 'blue' } }],
    ['POST', '/redrive', { perSecond: -1 }],
    ['POST', '/redrive', { to: 'mars' }],
    ['POST', '/redrive', { to: { queue: 'dead' } }],
    ['POST', '/redrive', { limit: 1.5 }],
  ]
  for (const [method, path, body] of bad) {
    const { status, json } = await vhost.delivery(method, `${DEAD}${path}`, { body })
    assert.equal(status, 400, `${method} ${path} ${JSON.stringify(body)}`)
    assert.match(json.type, /invalid_request$/)
  }
  for (const id of ['999999', 'x']) {
    assert.equal((await vhost.delivery('GET', `${DEAD}/redrives/${id}`)).status, 404)
  }
})
