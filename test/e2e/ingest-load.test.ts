/**
 * Ingests under load: one client that sends a thousand times as much as the others, requests drawn
 * at random (`SEED=n` replays them), a router that is killed.
 */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { randomFor, waitFor } from '@sluice/testkit'
import type { Vhost } from '../support/deployment.ts'
import type { HttpClient } from '../support/http.ts'
import {
  accepted,
  exact,
  ingest,
  leaseAll,
  problem,
  tellStories,
  type World,
} from '../support/ingest.ts'

const QUIET = 10
const PER_QUIET = 4
const NOISY = 1_000 * PER_QUIET
/** Messages that the backend takes at a time: so many are on their way out already. */
const TAKEN = 20

/**
 * The backend takes a few messages at a time, while the noisy client keeps its share of the room
 * full. How many of its messages go before one of the others that is already there?
 */
async function noisyClient(world: World, vhost: Vhost): Promise<void> {
  const { here, there } = world
  const { at } = await ingest(world, vhost, {
    fairness: { by: { header: 'X-Client' } },
    admission: { waitingMax: 1_000 },
  })
  let noisySent = 0
  let refused = 0
  let open = true
  const gone: string[] = []
  /** Body -> how many had gone when it was accepted. */
  const goneBefore = new Map<string, number>()
  const send = async (router: HttpClient, client: string, body: string) => {
    const answer = await router.request('POST', at, { headers: { 'X-Client': client }, body })
    goneBefore.set(body, gone.length)
    if (answer.status === 202) return
    assert.deepEqual(problem(answer), [429, 'too_many_requests'], client)
    assert.equal(client, 'noisy', 'nobody else is refused')
    assert.ok(Number(answer.headers['retry-after']) >= 1)
    refused++
  }
  const noisy = Array.from({ length: 32 }, async (_, loop) => {
    while (open || noisySent < NOISY) {
      await send(loop % 2 ? here : there, 'noisy', `n${noisySent++}`)
    }
  })
  const backend = async () => {
    while (open) gone.push(...(await vhost.drain('q', { max: TAKEN, waitMs: 0 })))
  }
  const others = async () => {
    await waitFor(async () => (await vhost.counts('q'))['ready']! > 500)
    const draining = backend()
    const quiet = Array.from({ length: QUIET }, async (_, client) => {
      for (let i = 0; i < PER_QUIET; i++) await send(here, `quiet${client}`, `q${client}-${i}`)
    })
    await Promise.all(quiet)
    const all = () => gone.filter((body) => body.startsWith('q')).length === QUIET * PER_QUIET
    await waitFor(all, { timeoutMs: 20_000 })
    open = false
    await draining
  }
  await Promise.all([
    ...noisy,
    others().finally(() => {
      open = false
    }),
  ])
  assert.ok(refused > NOISY / 2, `${refused} refused`)
  for (const [index, body] of gone.entries()) {
    if (!body.startsWith('q')) continue
    const before = gone.slice(goneBefore.get(body)!, index).filter((one) => one.startsWith('n'))
    const bound = 3 * TAKEN + PER_QUIET
    assert.ok(before.length <= bound, `${before.length} of the noisy one went before ${body}`)
  }
}

async function randomRequests(world: World, vhost: Vhost, t: TestContext): Promise<void> {
  const { processes } = world
  const { at } = await ingest(world, vhost)
  const random = randomFor(t)
  const METHODS = ['GET', 'POST', 'PUT', 'DELETE', 'PATCH', 'OPTIONS', 'HEAD', 'LOCK']
  const PIECES = ['/', '//', '?', '&', '%', '%zz', '%00', '.', '..', '~', ';', '@', ':', '\\', "'"]
  const NAMES = [
    'X-A',
    'x-a',
    '__proto__',
    'constructor',
    'Sluice-Ttl',
    'X-Http-Path',
    'Te',
    'Cookie',
  ]
  const stored = new Map<string, string>()
  for (let n = 0; n < 400; n++) {
    const tail = Array.from({ length: random.int(0, 5) }, () =>
      random.chance(0.6) ? random.pick(PIECES) : 'x'.repeat(random.int(0, 4)),
    ).join('')
    const headers: Record<string, string> = {}
    for (let left = random.int(0, 3); left > 0; left--) {
      headers[random.pick(NAMES)] = String.fromCharCode(
        ...Array.from({ length: random.int(0, 8) }, () => 32 + random.int(0, 94)),
      )
    }
    if (random.chance(0.1)) headers['Prefer'] = random.pick(['wait=0', 'wait=-1', 'wait=', 'wait'])
    const method = random.pick(METHODS)
    const router = random.pick(processes.slice(0, 2))
    const body = random.chance(0.5) ? `${n}` : undefined
    const options = { headers, ...(body !== undefined && { body }) }
    const answer = await exact(router, method, `${at}/${tail}`, options)
    const what = `${method} ${tail} ${JSON.stringify(headers)}`
    if (answer.status === 202) {
      const [path = '', ...query] = `/${tail}`.split('?')
      const id = answer.location.slice('/v1/requests/'.length)
      stored.set(
        id,
        JSON.stringify([method, path, query.length ? query.join('?') : undefined, body ?? '']),
      )
    } else assert.equal(answer.status, 400, `${what}: ${answer.text}`)
  }
  assert.ok(stored.size > 100)
  const messages = await leaseAll(vhost)
  const found = messages.map(({ headers, body }) => [
    headers['x-request-id'],
    JSON.stringify([
      headers['x-http-method'],
      headers['x-http-path'],
      headers['x-http-query'],
      body,
    ]),
  ])
  assert.deepEqual(new Map(found as [string, string][]), stored)
  assert.equal(found.length, stored.size)
}

async function killedRouter(world: World, vhost: Vhost): Promise<void> {
  const { here, there, processes } = world
  const { at } = await ingest(world, vhost)
  const answered = new Map<string, string>()
  let lost = 0
  const senders = Array.from({ length: 32 }, async (_, sender) => {
    for (let i = 0; i < 40; i++) {
      const body = `${sender}-${i}`
      const options = { headers: { 'Idempotency-Key': body }, body }
      try {
        answered.set(body, await accepted(here.request('POST', at, options)))
      } catch (error) {
        if (error instanceof assert.AssertionError) throw error
        lost++ // not answered: sent again, elsewhere
        answered.set(body, await accepted(there.request('POST', at, options)))
      }
      if (answered.size === 500) await processes[0]!.kill9()
    }
  })
  await Promise.all(senders)
  await processes[0]!.restart()
  assert.ok(lost > 0, 'it was killed midway')
  const messages = await leaseAll(vhost)
  assert.equal(messages.length, 32 * 40)
  const ids = new Map(
    messages.map(({ body, headers }) => [body, headers['x-request-id'] as string]),
  )
  assert.deepEqual([...ids].sort(), [...answered].sort())
  for (const id of [...answered.values()].slice(0, 50)) {
    assert.equal((await there.request('GET', `/v1/requests/${id}`)).json.state, 'waiting')
  }
}

test('ingests under load', (t) =>
  tellStories(t, [
    ['one client that sends a thousand times as much delays the others little', noisyClient],
    ['random requests are stored as they came or refused', randomRequests],
    ['a router that is killed midway has stored whatever it answered for, once', killedRouter],
  ]))
