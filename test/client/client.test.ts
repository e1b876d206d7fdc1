/** The client library against a whole broker. */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import {
  type ConsumeOptions,
  DeadLetter,
  type Delivery,
  idempotent,
  MemoryStore,
  Retry,
  Sluice,
  SluiceError,
  type SluiceOptions,
} from '@sluice/client'
import { waitFor } from '@sluice/testkit'
import { PASSWORD, type TestBroker, withBroker } from '../support/broker.ts'
import { tcpProxy } from '../support/tcp-proxy.ts'

const QUICK = { baseMs: 20, delayMsMax: 100, attemptsMax: 30 }
const VIAS = ['websocket', 'http'] as const

interface Scene {
  readonly broker: TestBroker
  readonly sluice: Sluice
  client(options?: Partial<SluiceOptions>): Sluice
}

async function withClient(t: TestContext): Promise<Scene> {
  const clients: Sluice[] = []
  t.after(() => Promise.all(clients.map((client) => client.close())))
  const broker = await withBroker(t)
  const client = (options: Partial<SluiceOptions> = {}) => {
    const { http: url, vhost } = broker
    const made = new Sluice({ url, vhost, token: PASSWORD, retry: QUICK, ...options })
    clients.push(made)
    return made
  }
  const sluice = client()
  await sluice.topology.declareQueue('q')
  return { broker, sluice, client }
}

async function failure(promise: Promise<unknown>): Promise<SluiceError> {
  const error = await promise.then(
    () => assert.fail('it succeeded'),
    (error) => error,
  )
  assert.ok(error instanceof SluiceError, String(error))
  return error
}

/** Collects what a consumer gets; `until` waits for so many. */
function collecting(sluice: Sluice, options: ConsumeOptions, work = (_: Delivery) => {}) {
  const got: Delivery[] = []
  const errors: unknown[] = []
  const onError = (error: unknown) => errors.push(error)
  const handler = async (delivery: Delivery) => {
    got.push(delivery)
    await work(delivery)
  }
  const consumer = sluice.consume('q', handler, { onError, ...options })
  const until = (count: number) =>
    waitFor(() => got.length >= count, { what: `${count} deliveries, ${errors.join()}` })
  return { got, errors, consumer, until }
}

test('refusals are typed: code, status, details; and what cannot help is not repeated', async (t) => {
  const { sluice, client } = await withClient(t)
  const missing = await failure(sluice.topology.getQueue('none'))
  assert.deepEqual(
    [missing.code, missing.status, missing.retriable],
    ['queue_not_found', 404, false],
  )
  const conflict = await failure(
    sluice.topology.declareQueue('q', { arguments: { 'x-max-priority': 3 } }),
  )
  assert.equal(conflict.code, 'declaration_conflict')
  const stranger = client({ token: 'wrong' })
  assert.equal((await failure(stranger.topology.getQueue('q'))).code, 'unauthenticated')
  for (const via of VIAS) {
    const denied = stranger.consume('q', () => {}, { via })
    assert.equal((await failure(denied.closed)).code, 'unauthenticated', via)
  }
  const lost = await failure(sluice.publish({ queue: 'none' }, 1))
  assert.deepEqual([lost.code, lost.message], ['unroutable', 'There is no queue "none".'])
  const unbound = { exchange: 'amq.direct', routingKey: 'none' }
  const unwanted = await failure(sluice.publish(unbound, 1, { mandatory: true }))
  assert.equal(unwanted.message, 'No queue is bound with this routing key.')
  const nowhere = client({ url: 'http://127.0.0.1:1', retry: { attemptsMax: 2, baseMs: 1 } })
  assert.equal((await failure(nowhere.publish({ queue: 'q' }, 1))).code, 'connection_failed')
})

test('topology is declared, shown, bound and deleted', async (t) => {
  const { sluice } = await withClient(t)
  const { topology } = sluice
  assert.equal(await topology.declareExchange('events', { type: 'topic' }), true)
  assert.equal(await topology.declareExchange('events', { type: 'topic' }), false)
  const binding = { source: 'events', destination: 'q', routingKey: 'a.#' }
  assert.equal(await topology.bind(binding), true)
  assert.equal((await topology.listBindings({ source: 'events' })).total, 1)
  const { queues } = await sluice.publish({ exchange: 'events', routingKey: 'a.b' }, 'x')
  assert.deepEqual(queues, ['q'])
  await topology.unbind(binding)
  assert.equal((await sluice.publish({ exchange: 'events', routingKey: 'a.b' }, 'x')).routed, false)
  assert.equal((await topology.getQueue('q')).messages.ready, 1)
  assert.equal(await topology.purgeQueue('q'), 1)
  assert.equal(
    await topology.setPolicy('p', { pattern: '^q', definition: { 'max-length': 5 } }),
    true,
  )
  assert.equal((await topology.getQueue('q')).policy, 'p')
  await topology.deletePolicy('p')
  assert.equal((await topology.getExchange('events')).type, 'topic')
  await topology.deleteExchange('events')
  assert.ok((await topology.listExchanges()).total > 0)
  assert.equal((await topology.listQueues({ pattern: '^q$' })).items[0]?.name, 'q')
  assert.equal(await topology.deleteQueue('q'), 0)
})

for (const via of VIAS) {
  test(`${via}: bodies, headers and properties arrive as they were published`, async (t) => {
    const { sluice } = await withClient(t)
    const bodies = [{ a: [1, null] }, 'grüße', new Uint8Array([0, 255]), 7, '']
    const options = { headers: { n: 1, deep: { x: [true] } }, correlationId: 'c', type: 'greeting' }
    for (const body of bodies) await sluice.publish({ queue: 'q' }, body, options)
    const { got, until, consumer } = collecting(sluice, { via })
    await until(bodies.length)
    assert.deepEqual(
      got.map(({ body }) => body),
      bodies,
    )
    const [first] = got
    assert.deepEqual([first?.headers, first?.properties.type], [options.headers, 'greeting'])
    assert.deepEqual([first?.queue, first?.redelivered, first?.deliveryCount], ['q', false, 1])
    await consumer.drain()
    const { ready, unacked } = (await sluice.topology.getQueue('q')).messages
    assert.deepEqual([ready, unacked], [0, 0])
  })

  test(`${via}: a handler's errors decide what becomes of a message`, async (t) => {
    const { sluice } = await withClient(t)
    const publish = (body: string) => sluice.publish({ queue: 'q' }, body)
    for (const body of ['retry', 'dead', 'fine']) await publish(body)
    const { got, until, errors, consumer } = collecting(
      sluice,
      { via },
      ({ body, failedCount }) => {
        if (body === 'retry' && failedCount === 0) throw new Retry('later', { delayMs: 50 })
        if (body === 'dead') throw new DeadLetter('never')
      },
    )
    await until(4)
    assert.equal(got.at(-1)?.body, 'retry')
    assert.equal(errors.length, 2)
    await consumer.drain()
    const reasons: unknown[] = []
    const dead = sluice.consume('amq.dead-letters', ({ body, headers }) => {
      reasons.push(body, headers['x-sluice-error'])
    })
    await waitFor(() => reasons.length > 0)
    assert.deepEqual(reasons, ['dead', 'never'])
    await dead.drain()
  })

  test(`${via}: as many handlers run as asked, no more, and a drain waits for them`, async (t) => {
    const { sluice } = await withClient(t)
    for (let i = 0; i < 30; i++) await sluice.publish({ queue: 'q' }, i)
    let running = 0
    let most = 0
    const gate = Promise.withResolvers<void>()
    const handler = async () => {
      most = Math.max(most, ++running)
      await gate.promise
      running--
    }
    const consumer = sluice.consume('q', handler, { via, concurrency: 5, prefetch: 3 })
    await waitFor(() => running === 5)
    await waitFor(async () => (await sluice.topology.getQueue('q')).messages.unacked === 8)
    const draining = consumer.drain()
    await waitFor(async () => (await sluice.topology.getQueue('q')).messages.unacked === 5)
    gate.resolve()
    await draining
    await consumer.closed
    assert.equal(most, 5)
    const { ready, unacked } = (await sluice.topology.getQueue('q')).messages
    assert.deepEqual([ready, unacked], [25, 0])
  })

  test(`${via}: a consumer whose queue goes away ends with the reason`, async (t) => {
    const { sluice } = await withClient(t)
    const absent = sluice.consume('none', () => {}, { via })
    assert.equal((await failure(absent.closed)).code, 'queue_not_found')
    const { consumer } = collecting(sluice, { via })
    await sluice.publish({ queue: 'q' }, 1)
    await waitFor(async () => (await sluice.topology.getQueue('q')).messages.ready === 0)
    await sluice.topology.deleteQueue('q')
    assert.equal((await failure(consumer.closed)).code, 'queue_not_found')
  })

  test(`${via}: connections that break cost deliveries again, and nothing else`, async (t) => {
    const { sluice, broker, client } = await withClient(t)
    const proxy = await tcpProxy(Number(new URL(broker.http).port))
    t.after(() => proxy.close())
    const shaky = client({ url: `http://127.0.0.1:${proxy.port}` })
    const seen = new Set<unknown>()
    // A lease whose answer is lost comes again when it lapses.
    const options = { via, concurrency: 4, leaseMs: 1_000 }
    const consumer = shaky.consume('q', ({ body }) => void seen.add(body), options)
    for (let round = 0; round < 5; round++) {
      const bodies = Array.from({ length: 20 }, (_, i) => ({ body: round * 20 + i }))
      await sluice.publishBatch({ queue: 'q' }, bodies)
      await waitFor(() => seen.size >= round * 20 + 10, { what: `round ${round}` })
      proxy.reset()
    }
    await waitFor(() => seen.size === 100, { what: 'all' })
    await consumer.drain()
    await waitFor(async () => (await sluice.topology.getQueue('q')).messages.unacked === 0)
  })

  test(`${via}: a signal drains, a drained client lets the process end`, async (t) => {
    const { sluice } = await withClient(t)
    const stop = new AbortController()
    const { consumer, until } = collecting(sluice, { via, signal: stop.signal })
    await sluice.publish({ queue: 'q' }, 1)
    await until(1)
    stop.abort()
    await consumer.closed
  })
}

test('http: a lease is extended for as long as the handler runs', async (t) => {
  const { sluice } = await withClient(t)
  await sluice.publish({ queue: 'q' }, 'long')
  const gate = Promise.withResolvers<void>()
  const options = { via: 'http', leaseMs: 1_000 } as const
  const { got, until, consumer } = collecting(sluice, options, () => gate.promise)
  await until(1)
  const start = performance.now()
  await waitFor(() => performance.now() - start > 2_500)
  gate.resolve()
  await consumer.drain()
  assert.equal(got.length, 1)
  const { ready, unacked } = (await sluice.topology.getQueue('q')).messages
  assert.deepEqual([ready, unacked], [0, 0])
})

test('a delivery that is lost aborts its signal', async (t) => {
  const { broker, client } = await withClient(t)
  const proxy = await tcpProxy(Number(new URL(broker.http).port))
  t.after(() => proxy.close())
  const shaky = client({ url: `http://127.0.0.1:${proxy.port}` })
  await shaky.publish({ queue: 'q' }, 1)
  const lost = Promise.withResolvers<void>()
  const consumer = shaky.consume('q', async ({ signal, redelivered }) => {
    if (redelivered) return
    await new Promise((resolve) => signal.addEventListener('abort', resolve))
    lost.resolve()
  })
  await waitFor(async () => (await shaky.topology.getQueue('q')).messages.unacked === 1)
  proxy.reset()
  await lost.promise
  await consumer.drain()
})

test('a publish whose answer is lost is sent again, and stored once', async (t) => {
  const { sluice, broker } = await withClient(t)
  let lost = 0
  const shaky: typeof fetch = async (input, init) => {
    const answer = await fetch(input, init)
    if (lost++ % 2 === 1) return answer
    throw new TypeError('the answer was lost')
  }
  const options = { url: broker.http, vhost: broker.vhost, token: PASSWORD, fetch: shaky }
  const client = new Sluice({ ...options, retry: QUICK })
  assert.equal((await client.publish({ queue: 'q' }, 'once')).duplicate, true)
  const { published } = await client.publishBatch({ queue: 'q' }, [{ body: 1 }, { body: 2 }])
  assert.equal(published, 2)
  assert.equal((await sluice.topology.getQueue('q')).messages.ready, 3)
})

test('what a proxy answers instead of the broker is tried again', async (t) => {
  const { client } = await withClient(t)
  let asked = 0
  const through: typeof fetch = async (input, init) =>
    asked++ < 2 ? new Response('<h1>Bad Gateway</h1>', { status: 502 }) : fetch(input, init)
  assert.equal((await client({ fetch: through }).publish({ queue: 'q' }, 1)).routed, true)
  const broken: typeof fetch = async () => new Response('no JSON', { status: 500 })
  assert.equal(
    (await failure(client({ fetch: broken }).topology.getQueue('q'))).code,
    'unexpected_answer',
  )
})

test('a socket publishes, and again after it broke, without doubling', async (t) => {
  const { sluice, broker, client } = await withClient(t)
  const proxy = await tcpProxy(Number(new URL(broker.http).port))
  t.after(() => proxy.close())
  await using socket = client({ url: `http://127.0.0.1:${proxy.port}` }).socket()
  const all = []
  for (let i = 0; i < 300; i++) {
    all.push(socket.publish({ queue: 'q' }, i))
    if (i % 100 === 50) {
      await all.at(-30)
      proxy.reset()
    }
  }
  await Promise.all(all)
  assert.equal((await sluice.topology.getQueue('q')).messages.ready, 300)
  const lost = await failure(socket.publish({ queue: 'none' }, 1))
  assert.deepEqual([lost.code, lost.message], ['unroutable', 'There is no queue "none".'])
})

test('a publisher gathers, keeps the order, and tells each message its own failure', async (t) => {
  const { sluice } = await withClient(t)
  const publisher = sluice.publisher({ pendingMax: 500 })
  const all = Array.from({ length: 1_000 }, (_, i) => publisher.publish({ queue: 'q' }, i))
  const bad = failure(publisher.publish({ queue: 'none' }, 1))
  await Promise.all(all)
  assert.equal((await bad).code, 'unroutable')
  await publisher.close()
  assert.equal((await failure(publisher.publish({ queue: 'q' }, 1))).code, 'closed')
  const { got, until, consumer } = collecting(sluice, { prefetch: 200 })
  await until(1_000)
  assert.deepEqual(
    got.map(({ body }) => body),
    Array.from({ length: 1_000 }, (_, i) => i),
  )
  await consumer.drain()
})

test('calls end with the reason of their signal', async (t) => {
  const { client } = await withClient(t)
  const reason = new Error('enough')
  const patient = client({ url: 'http://127.0.0.1:1', retry: { attemptsMax: 1_000 } })
  const stop = new AbortController()
  const publishing = patient.publish({ queue: 'q' }, 1, { signal: stop.signal })
  stop.abort(reason)
  await assert.rejects(publishing, reason)
  const before = AbortSignal.abort(reason)
  await assert.rejects(patient.topology.getQueue('q', { signal: before }), reason)
})

test('a typed queue checks what comes, and sets aside what is of another type', async (t) => {
  const { sluice } = await withClient(t)
  const jobs = sluice.queue<{ photo: number }>('q', (body) => {
    const { photo } = body as { photo: unknown }
    if (typeof photo !== 'number') throw new TypeError('a job has a photo')
    return { photo }
  })
  await sluice.publish({ queue: 'q' }, { photo: 'seven' })
  await jobs.publish({ photo: 7 })
  const photos: number[] = []
  const consumer = jobs.consume(({ body }) => void photos.push(body.photo))
  await waitFor(() => photos.length > 0)
  await consumer.drain()
  assert.deepEqual(photos, [7])
  await waitFor(async () => {
    const { ready } = (await sluice.topology.getQueue('amq.dead-letters')).messages
    return ready === 1
  })
})

test('an idempotent handler works once on what is delivered twice', async (t) => {
  const { sluice } = await withClient(t)
  let worked = 0
  const work = idempotent(() => void worked++, { store: new MemoryStore() })
  let deliveries = 0
  const consumer = sluice.consume('q', async (delivery) => {
    await work(delivery)
    if (++deliveries === 1) throw new Retry('crashed after the work', { delayMs: 0 })
  })
  await sluice.publish({ queue: 'q' }, 'x')
  await waitFor(() => deliveries === 2)
  await consumer.drain()
  assert.equal(worked, 1)
})

test('a trace goes out with a publish and comes in with its delivery', async (t) => {
  const { client } = await withClient(t)
  const traceparent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'
  const traced = client({ trace: () => ({ traceparent, tracestate: 'a=b' }) })
  await traced.publish({ queue: 'q' }, 1)
  const { got, until, consumer } = collecting(traced, {})
  await until(1)
  assert.equal(got[0]?.trace?.tracestate, 'a=b')
  assert.match(String(got[0]?.trace?.traceparent), /^00-0af7651916cd43dd8448eb211c80319c-/)
  await consumer.drain()
})

test('a CloudEvent goes out and comes in as one, once', async (t) => {
  const { sluice } = await withClient(t)
  const event = { id: 'e-1', source: 'urn:shop', type: 'order.created', data: { total: 3 } }
  assert.equal((await sluice.publishEvent({ queue: 'q' }, event)).duplicate, false)
  assert.equal((await sluice.publishEvent({ queue: 'q' }, event)).duplicate, true)
  const second = { source: 'urn:shop', type: 'order.paid', region: 'eu' }
  assert.equal((await sluice.publishEvents({ queue: 'q' }, [event, second])).published, 2)
  assert.equal((await failure(sluice.publishEvent({ queue: 'none' }, event))).code, 'unroutable')
  const { got, until, consumer } = collecting(sluice, {})
  await until(2)
  const [created, paid] = got.map((delivery) => delivery.event)
  assert.deepEqual(
    [created?.id, created?.type, created?.data],
    ['e-1', 'order.created', { total: 3 }],
  )
  assert.equal(paid?.['region'], 'eu')
  await consumer.drain()
})

test('a watcher sees what is published to an exchange, and goes on where it was', async (t) => {
  const { sluice, broker, client } = await withClient(t)
  const proxy = await tcpProxy(Number(new URL(broker.http).port))
  t.after(() => proxy.close())
  const shaky = client({ url: `http://127.0.0.1:${proxy.port}` })
  const stop = new AbortController()
  const seen: unknown[] = []
  const watch = async () => {
    for await (const { body } of shaky.watch('amq.fanout', { signal: stop.signal })) seen.push(body)
  }
  const watching = watch()
  const started = async () => (await sluice.publish({ exchange: 'amq.fanout' }, -1)).routed
  await waitFor(started, { what: 'the watcher' })
  for (let i = 0; i < 60; i++) {
    await sluice.publish({ exchange: 'amq.fanout' }, i)
    if (i % 20 === 10) proxy.reset()
  }
  await waitFor(() => seen.at(-1) === 59, { what: 'the last one' })
  stop.abort()
  await assert.rejects(watching)
  assert.deepEqual(
    seen.filter((body) => body !== -1),
    Array.from({ length: 60 }, (_, i) => i),
  )
})
