/**
 * Ingests, through two routers. The backend's part is played by leases, and where its answer
 * matters by noting it as push does.
 */
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { connect } from 'node:net'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { waitFor } from '@sluice/testkit'
import type { HttpClient, RequestOptions } from '../support/http.ts'
import {
  accepted,
  exact,
  type IngestStory,
  ingest,
  problem,
  tellStories,
} from '../support/ingest.ts'

const STRANGER = { Authorization: 'Bearer wrong' }

const STORIES: readonly IngestStory[] = [
  [
    'a request of any method and path becomes a message, with what it said',
    async (world, vhost) => {
      const { here, processes } = world
      const { name, at } = await ingest(world, vhost)
      for (const method of ['GET', 'POST', 'DELETE', 'PROPFIND', 'M-SEARCH']) {
        await accepted(
          here.request(method, `${at}/a%2Fb/c;d?x=%20y&z&x=2`, { body: `b ${method}` }),
        )
      }
      await accepted(here.request('POST', at))
      assert.equal((await exact(processes[0]!, 'POST', `${at}//?`)).status, 202)
      const messages = await vhost.lease('q')
      const said = messages.map(({ headers, body }) => [
        headers['x-http-method'],
        headers['x-http-path'],
        headers['x-http-query'],
        body,
      ])
      assert.deepEqual(said, [
        ['GET', '/a%2Fb/c;d', 'x=%20y&z&x=2', 'b GET'],
        ['POST', '/a%2Fb/c;d', 'x=%20y&z&x=2', 'b POST'],
        ['DELETE', '/a%2Fb/c;d', 'x=%20y&z&x=2', 'b DELETE'],
        ['PROPFIND', '/a%2Fb/c;d', 'x=%20y&z&x=2', 'b PROPFIND'],
        ['M-SEARCH', '/a%2Fb/c;d', 'x=%20y&z&x=2', 'b M-SEARCH'],
        ['POST', '', undefined, ''],
        ['POST', '//', '', ''],
      ])
      assert.equal(messages[0]!.headers['x-ingest'], name)
    },
  ],
  [
    'headers are kept as the ingest says, credentials only where they are named',
    async (world, vhost) => {
      const { here } = world
      const headers = {
        Authorization: 'Bearer of-the-backend',
        Cookie: 'a=1',
        'Content-Type': 'text/plain; charset=latin1',
        'X-One': 'é',
        'X-Hop': 'dropped',
        Connection: 'keep-alive, X-Hop',
        Prefer: 'respond-async',
        'Idempotency-Key': randomUUID(),
      }
      const kept = async (list: readonly string[]) => {
        const { at } = await ingest(world, vhost, { headers: list })
        await accepted(here.request('POST', at, { headers, body: 'x' }))
        const message = await vhost.leaseOne('q')
        await vhost.settle('q', message, { outcome: 'ack' })
        return Object.keys(message.headers['x-http-headers']).sort()
      }
      assert.deepEqual(await kept(['*']), ['content-type', 'idempotency-key', 'x-one'])
      assert.deepEqual(await kept(['X-One']), ['x-one'])
      assert.deepEqual(await kept([]), [])
      const all = ['authorization', 'content-type', 'cookie', 'idempotency-key', 'x-one']
      assert.deepEqual(await kept(['*', 'Authorization', 'cookie']), all)
    },
  ],
  [
    'an ingest is declared once, shown, changed everywhere, and deleted; its queue stays',
    async (world, vhost) => {
      const { there } = world
      const { name, at } = await ingest(world, vhost)
      const path = `/ingests/${name}`
      const same = { queue: 'q', open: true }
      assert.equal((await vhost.router('PUT', path, { body: same })).status, 200)
      const shown = (await vhost.router('GET', path)).json
      assert.equal(shown.url, `${at}/`)
      assert.equal(shown.admission.waitingMax, 100_000)
      assert.deepEqual((await vhost.router('GET', '/ingests')).json.items, [shown])

      const body = { ...same, bodyBytesMax: 3 }
      assert.equal((await vhost.router('PUT', path, { body })).status, 200)
      await waitFor(async () => (await there.request('POST', at, { body: '1234' })).status === 413)

      assert.equal((await vhost.router('DELETE', path)).status, 204)
      assert.equal((await vhost.router('DELETE', path)).status, 204)
      assert.deepEqual(problem(await vhost.router('GET', path)), [404, 'ingest_not_found'])
      await waitFor(async () => (await there.request('POST', at)).status === 404)
      assert.equal((await vhost.router('GET', '/queues/q')).status, 200)
    },
  ],
  [
    'a name is taken in the whole broker; what cannot be is refused',
    async (world, vhost) => {
      const { name } = await ingest(world, vhost)
      const other = await world.vhost()
      const taken = await other.router('PUT', `/ingests/${name}`, { body: {} })
      assert.deepEqual(problem(taken), [409, 'declaration_conflict'])
      const wrong: readonly [string, unknown][] = [
        ['a%2Fb', {}],
        ['-a', {}],
        ['x'.repeat(129), {}],
        ['a', { colour: 'red' }],
        ['a', { headers: ['Authorization'] }],
        ['a', { headers: ['Transfer-Encoding'] }],
        ['a', { headers: ['not a name'] }],
        ['a', { admission: { waitingMax: 0 } }],
        ['a', { fairness: { by: 'mood' } }],
        ['a', { fairness: { by: 'address', weights: { x: 0 } } }],
        ['a', { open: true, fairness: { by: 'credential' } }],
        ['a', { queue: 'amq.something' }],
      ]
      for (const [at, body] of wrong) {
        const answer = await other.router('PUT', `/ingests/${at}`, { body })
        assert.ok([400, 403].includes(answer.status), `${at} ${JSON.stringify(body)}`)
      }
      assert.deepEqual((await other.router('GET', '/ingests')).json.items, [])
    },
  ],
  [
    'a credential is needed unless the ingest is open, and a stranger learns nothing',
    async (world, vhost) => {
      const { here } = world
      const { at } = await ingest(world, vhost, { open: false })
      const ask = (path: string, headers: RequestOptions['headers'] = STRANGER) =>
        here.request('POST', path, { headers: { ...headers } })
      for (const path of [at, '/ingest/none/x', '/ingest/']) {
        assert.deepEqual(problem(await ask(path)), [401, 'unauthenticated'], path)
      }
      assert.deepEqual(problem(await ask('/ingest/none/x', {})), [404, 'ingest_not_found'])
      const unknown = (headers: RequestOptions['headers'] = {}) =>
        here.request('GET', '/v1/requests/none', { headers: { ...headers } })
      assert.deepEqual(problem(await unknown(STRANGER)), [401, 'unauthenticated'])
      assert.deepEqual(problem(await unknown()), [404, 'request_not_found'])
      const crossSite = await ask(at, { 'Sec-Fetch-Site': 'cross-site' })
      assert.deepEqual(problem(crossSite), [403, 'forbidden'])
      const id = await accepted(ask(at, {}))
      const read = (headers: RequestOptions['headers'] = {}) =>
        here.request('GET', `/v1/requests/${id}`, { headers: { ...headers } })
      assert.equal((await read()).json.state, 'waiting')
      assert.deepEqual(problem(await read(STRANGER)), [401, 'unauthenticated'])

      const { at: open } = await ingest(world, vhost)
      const theirs = await accepted(ask(open))
      const found = await here.request('GET', `/v1/requests/${theirs}`, { headers: STRANGER })
      assert.equal(found.json.state, 'waiting')
      const [message] = (await vhost.lease('q')).slice(-1)
      assert.equal(message!.headers['x-http-headers'].authorization, undefined)
    },
  ],
  [
    'a user sends where it may write the queue, and reads what is of a vhost it may enter',
    async (world, vhost) => {
      const { here } = world
      const { at } = await ingest(world, vhost, { open: false })
      const user = `u-${randomUUID()}`
      const password = randomUUID()
      const login = Buffer.from(`${user}:${password}`).toString('base64')
      const headers = { Authorization: `Basic ${login}` }
      const send = () => here.request('POST', at, { headers })
      const allow = async (write: string) => {
        const path = `/v1/users/${user}/permissions/${encodeURIComponent(vhost.name)}`
        const body = { configure: '', write, read: '' }
        const { status, text } = await here.request('PUT', path, { body })
        assert.ok(status < 300, text)
      }
      const made = await here.request('PUT', `/v1/users/${user}`, { body: { password } })
      assert.equal(made.status, 201, made.text)
      assert.deepEqual(problem(await send()), [403, 'forbidden'])
      const id = await accepted(here.request('POST', at))
      const read = () => here.request('GET', `/v1/requests/${id}`, { headers })
      assert.deepEqual(problem(await read()), [403, 'forbidden'])
      await allow('^other$')
      assert.deepEqual(problem(await send()), [403, 'forbidden'])
      assert.equal((await read()).status, 200)
      await allow('^q$')
      await waitFor(async () => (await send()).status === 202)
      assert.equal((await here.request('DELETE', `/v1/users/${user}`)).status, 204)
    },
  ],
  [
    'a request that comes again with its key is stored once, by whichever router it comes',
    async (world, vhost) => {
      const { here, there } = world
      const { at } = await ingest(world, vhost)
      const headers = { 'Idempotency-Key': randomUUID() }
      const send = (router: HttpClient, body: string) =>
        router.request('POST', `${at}/pay`, { headers, body })
      const all = Array.from({ length: 20 }, (_, i) => accepted(send(i % 2 ? here : there, 'once')))
      const ids = new Set(await Promise.all(all))
      assert.equal(ids.size, 1)
      assert.deepEqual(await vhost.drain('q'), ['once'])
      assert.equal((await send(there, 'once')).json.duplicate, true)
      assert.deepEqual(problem(await send(here, 'twice')), [422, 'idempotency_key_reused'])
      const { at: another } = await ingest(world, vhost)
      const elsewhere = await accepted(
        here.request('POST', `${another}/pay`, { headers, body: 'once' }),
      )
      assert.ok(!ids.has(elsewhere), 'keys of another ingest are other keys')
      const long = { 'Idempotency-Key': 'x'.repeat(256) }
      assert.equal((await here.request('POST', at, { headers: long })).status, 400)
    },
  ],
  [
    'who prefers to wait gets the backend’s answer, in whichever process it is noted',
    async (world, vhost) => {
      const { here, there, note } = world
      const { at } = await ingest(world, vhost)
      const headers = { Prefer: 'respond-async, wait=20' }
      const waiting = here.request('POST', at, { headers, body: 'order' })
      const { headers: sent } = await vhost.leaseOne('q')
      const id = sent['x-request-id']
      const asking = there.request('GET', `/v1/requests/${id}`, { headers })
      await sleep(50) // not what is tested: both may come later, too
      await note(id, 'failed', { status: 503 })
      await note(id, 'delivered', {
        status: 201,
        headers: [
          ['X-Order', '7'],
          ['Set-Cookie', 'a'],
          ['Set-Cookie', 'b'],
          ['Connection', 'close'],
        ],
        body: Buffer.from('made'),
      })
      const answer = await waiting
      assert.equal(answer.status, 201)
      assert.equal(answer.text, 'made')
      assert.equal(answer.headers['x-order'], '7')
      assert.deepEqual(answer.headers['set-cookie'], ['a', 'b'])
      assert.equal(answer.headers['preference-applied'], 'wait=20')
      assert.equal(answer.headers['sluice-request-id'], id)
      const asked = (await asking).json
      assert.deepEqual(
        [asked.state, asked.answer.status, asked.answer.body],
        ['delivered', 201, 'made'],
      )
    },
  ],
  [
    'a wait that is over, or without an answer to pass on, is told so',
    async (world, vhost) => {
      const { here, note } = world
      const { at } = await ingest(world, vhost)
      const send = (seconds: number) =>
        here.request('POST', at, { headers: { Prefer: `wait=${seconds}` }, body: 'x' })
      const next = async () => (await vhost.leaseOne('q')).headers['x-request-id']
      const late = await send(1)
      assert.deepEqual([late.status, late.json.state], [202, 'waiting'])
      await next()
      const dead = send(20)
      await note(await next(), 'dead')
      assert.deepEqual(problem(await dead), [502, 'request_failed'])
      const refused = send(20)
      await note(await next(), 'dead', { status: 404, body: Buffer.from('no such thing') })
      assert.deepEqual([(await refused).status, (await refused).text], [404, 'no such thing'])
      const large = send(20)
      await note(await next(), 'delivered', { body: Buffer.from('cut'), truncated: true })
      assert.deepEqual([(await large).status, (await large).json.state], [202, 'delivered'])
    },
  ],
  [
    'what is too large, cut short or misshapen is refused, and leaves nothing behind',
    async (world, vhost) => {
      const { here, processes } = world
      const { at } = await ingest(world, vhost, { bodyBytesMax: 100 })
      const post = (options: RequestOptions) => here.request('POST', at, options)
      assert.equal((await post({ body: 'x'.repeat(101) })).status, 413)
      assert.equal((await post({ headers: { 'X-Long': 'x'.repeat(70_000) } })).status, 431)
      assert.equal((await here.request('POST', `${at}/${'x'.repeat(9_000)}`)).status, 414)
      for (const path of ['/../x', '/a/..', '/%2e%2E/x', '/.', '/a\\..\\b']) {
        assert.equal((await exact(processes[0]!, 'POST', at + path)).status, 400, path)
      }
      const head = `POST ${at} HTTP/1.1\r\nHost: x\r\n`
      const port = Number(new URL(processes[0]!.http).port)
      for (const bytes of [
        `${head}Content-Length: 50\r\n\r\nhalf`,
        `${head}Transfer-Encoding: chunked\r\n\r\n5\r\nhel`,
        `${head}Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n`,
        `${head}Transfer-Encoding: chunked\r\n\r\n80\r\n${'x'.repeat(128)}\r\n0\r\n\r\n`,
      ]) {
        const socket = connect(port, '127.0.0.1')
        socket.on('error', () => {}).resume()
        socket.end(bytes)
        await once(socket, 'close')
      }
      assert.deepEqual(await vhost.counts('q'), { ready: 0, unacked: 0, delayed: 0, dead: 0 })
      assert.equal(await accepted(post({ body: 'x'.repeat(100) })).then((id) => id.length), 44)
    },
  ],
  [
    'a full room answers 503 with how long it will take, at every router, until there is room',
    async (world, vhost) => {
      const { here, there } = world
      const { at } = await ingest(world, vhost, { admission: { waitingMax: 5 } })
      const answers = await Promise.all(
        Array.from({ length: 12 }, (_, i) =>
          (i % 2 ? here : there).request('POST', at, { body: `${i}` }),
        ),
      )
      const refused = answers.filter(({ status }) => status !== 202)
      assert.equal(refused.length, 7)
      for (const answer of refused) {
        assert.deepEqual(problem(answer), [503, 'overloaded'])
        assert.ok(Number(answer.headers['retry-after']) >= 1)
      }
      await vhost.drain('q', { max: 2 })
      const again = await Promise.all(
        [here, here, there].map((router) => router.request('POST', at)),
      )
      assert.deepEqual(again.map(({ status }) => status).sort(), [202, 202, 503])
    },
  ],
  [
    'an ingest whose queue is gone says so, and works again once it is declared',
    async (world, vhost) => {
      const { here } = world
      const { at } = await ingest(world, vhost)
      await accepted(here.request('POST', at))
      assert.equal((await vhost.router('DELETE', '/queues/q')).status, 200)
      assert.deepEqual(problem(await here.request('POST', at)), [404, 'queue_not_found'])
      await vhost.queue('q')
      await accepted(here.request('POST', at, { body: 'new' }))
      assert.deepEqual(await vhost.drain('q'), ['new'])
    },
  ],
]

test('ingests', (t) => tellStories(t, STORIES))
