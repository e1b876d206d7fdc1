/** Publishing: confirms, returns, transactions, properties, sizes. */
import { createHash } from 'node:crypto'
import type { Channel, Properties } from '../client.ts'
import { drain, ready, refusalOf, type Scenarios, type Scene, send, shown, text } from '../scene.ts'

const PROPERTIES: Properties = {
  contentType: 'application/x-thing',
  contentEncoding: 'gzip',
  deliveryMode: 2,
  priority: 3,
  correlationId: 'correlation',
  replyTo: 'somewhere',
  expiration: '60000',
  messageId: 'message',
  timestamp: 1_700_000_000,
  type: 'kind',
  appId: 'interop',
}

export const publishing: Scenarios = {
  async 'publish, consume, ack'(scene) {
    const channel = await scene.channel()
    const queue = await scene.queue(channel, 'queue', { durable: true })
    await send(channel, queue, ['one', 'two', 'three'], { deliveryMode: 2 })
    const consumer = await channel.consume(queue)
    const deliveries = await consumer.deliveries.take(3)
    for (const { tag } of deliveries) await channel.ack(tag)
    await channel.cancel(consumer.tag)
    const seen = deliveries.map(({ body, tag, redelivered, exchange, routingKey }) => {
      return { body: text({ body }), tag, redelivered, exchange, routingKey }
    })
    await channel.close() // what is not acknowledged comes back
    const after = await scene.channel()
    return { seen, left: (await after.checkQueue(queue)).messages }
  },

  async 'confirms, many outstanding'(scene) {
    const channel = await scene.channel()
    const queue = await scene.queue(channel)
    await channel.confirms()
    const texts = Array.from({ length: 500 }, (_, index) => String(index))
    const order: string[] = []
    await Promise.all(
      texts.map(async (body) => {
        order.push(`${await channel.publish({ routingKey: queue, body })} ${body}`)
      }),
    )
    const stored = await drain(channel, queue)
    return {
      acked: order.filter((line) => line.startsWith('acked')).length,
      inOrder: order.every((line, index) => line === `acked ${index}`),
      storedInOrder: stored.join() === texts.join(),
    }
  },

  async 'mandatory, returned'(scene) {
    const channel = await scene.channel()
    await channel.confirms()
    const nowhere = { exchange: 'amq.direct', routingKey: scene.name('nowhere'), body: 'lost' }
    const silent = await channel.publish(nowhere)
    const answer = await channel.publish({
      ...nowhere,
      mandatory: true,
      properties: { messageId: 'm1', headers: { h: 1 } },
    })
    const { properties, body, ...returned } = await channel.returned.next()
    return { silent, answer, ...returned, id: properties['messageId']!, body: text({ body }) }
  },

  async 'mandatory, routed'(scene) {
    const channel = await scene.channel()
    const queue = await scene.queue(channel)
    await channel.confirms()
    const answer = await channel.publish({ routingKey: queue, body: 'x', mandatory: true })
    return { answer, returned: channel.returned.size, stored: await drain(channel, queue) }
  },

  async 'publish to a missing exchange'(scene) {
    const connection = await scene.connect()
    const channel = await connection.channel()
    await channel.publish({ exchange: scene.name('missing'), routingKey: 'x' })
    const closed = shown(await channel.closed)
    const other = await connection.channel()
    return { closed, survives: await refusalOf(scene.queue(other)) }
  },

  async 'publish to an internal exchange'(scene) {
    const channel = await scene.channel()
    const exchange = await scene.exchange(channel, 'internal', 'fanout', { internal: true })
    await channel.publish({ exchange, routingKey: '' })
    return shown(await channel.closed)
  },

  async 'overflow: drop-head, reject-publish'(scene) {
    const channel = await scene.channel()
    const dropping = await scene.queue(channel, 'dropping', { arguments: { 'x-max-length': 2 } })
    const bytes = await scene.queue(channel, 'bytes', { arguments: { 'x-max-length-bytes': 5 } })
    const refusing = await scene.queue(channel, 'refusing', {
      arguments: { 'x-max-length': 2, 'x-overflow': 'reject-publish' },
    })
    await channel.confirms()
    const answers: Record<string, string[]> = {}
    for (const queue of [dropping, bytes, refusing]) {
      for (const body of ['aa', 'bb', 'cc', 'dd']) {
        const answer = await channel.publish({ routingKey: queue, body })
        answers[queue] = [...(answers[queue] ?? []), answer]
      }
    }
    const kept = [await drain(channel, dropping), await drain(channel, bytes)]
    return { answers, kept: [...kept, await drain(channel, refusing)] }
  },

  async 'reject-publish in one of two queues'(scene) {
    const channel = await scene.channel()
    const exchange = await scene.exchange(channel, 'fan', 'fanout')
    const full = await scene.queue(channel, 'full', {
      arguments: { 'x-max-length': 1, 'x-overflow': 'reject-publish' },
    })
    const open = await scene.queue(channel, 'open')
    for (const queue of [full, open]) await channel.bind(queue, exchange, '')
    await channel.confirms()
    const answers = []
    for (const body of ['a', 'b']) {
      answers.push(await channel.publish({ exchange, routingKey: '', body }))
    }
    return { answers, full: await drain(channel, full), open: await drain(channel, open) }
  },

  async 'properties come back as they went'(scene) {
    const channel = await scene.channel()
    const queue = await scene.queue(channel)
    await channel.publish({ routingKey: queue, body: 'x', properties: PROPERTIES })
    await channel.publish({ routingKey: queue, body: '' })
    await ready(channel, queue, 2)
    const full = await channel.get(queue, { noAck: true })
    const bare = await channel.get(queue, { noAck: true })
    return { full: full!.properties, bare: bare!.properties, empty: bare!.body.length === 0 }
  },

  async 'header fields of every type'(scene) {
    const channel = await scene.channel()
    const queue = await scene.queue(channel)
    await channel.publish({ routingKey: queue, body: 'x', everyType: true })
    await ready(channel, queue, 1)
    return (await channel.get(queue, { noAck: true }))!.properties['headers']!
  },

  async 'a user-id that is not ours'(scene) {
    const channel = await scene.channel()
    const queue = await scene.queue(channel)
    await channel.publish({ routingKey: queue, body: 'x', properties: { userId: 'nobody' } })
    return shown(await channel.closed)
  },

  async 'an expiration that is no number'(scene) {
    const channel = await scene.channel()
    const queue = await scene.queue(channel)
    await channel.publish({ routingKey: queue, body: 'x', properties: { expiration: 'soon' } })
    return shown(await channel.closed)
  },

  async 'CC and BCC'(scene) {
    const channel = await scene.channel()
    const [to, cc, bcc] = [
      await scene.queue(channel, 'to'),
      await scene.queue(channel, 'cc'),
      await scene.queue(channel, 'bcc'),
    ]
    const headers = { CC: [cc], BCC: [bcc], kept: 'yes' }
    await channel.publish({ routingKey: to, body: 'x', properties: { headers } })
    const seen = []
    for (const queue of [to, cc, bcc]) {
      await ready(channel, queue, 1)
      const { routingKey, properties } = (await channel.get(queue, { noAck: true }))!
      seen.push({ queue, routingKey, headers: properties['headers']! })
    }
    return seen
  },

  async 'bodies of 1 MiB and 16 MiB'(scene) {
    const channel = await scene.channel()
    const queue = await scene.queue(channel)
    const outcome = []
    for (const size of [1024 * 1024, 16 * 1024 * 1024])
      outcome.push(await roundTrip(channel, queue, size))
    return outcome
  },

  async 'a body of more than 16 MiB'(scene) {
    const channel = await scene.channel()
    const queue = await scene.queue(channel)
    const body = Buffer.alloc(16 * 1024 * 1024 + 1)
    // The refusal may come while the body is still being written.
    channel.publish({ routingKey: queue, body }).catch(() => {})
    const closed = await channel.closed
    return { closed: shown(closed), survives: await refusalOf(fresh(scene, queue)) }
  },

  async 'transactions: commit, rollback'(scene) {
    const channel = await scene.channel()
    const other = await scene.channel()
    const queue = await scene.queue(other)
    await channel.txSelect()
    await send(channel, queue, ['rolled back'])
    await channel.txRollback()
    await send(channel, queue, ['one', 'two'])
    const before = (await other.checkQueue(queue)).messages
    await channel.txCommit()
    const after = (await other.checkQueue(queue)).messages

    const first = (await channel.get(queue))!
    await channel.ack(first.tag)
    await channel.txRollback()
    await channel.ack(first.tag) // it is still to be settled
    await channel.txCommit()
    await channel.close()
    return { before, after, left: await drain(other, queue) }
  },

  async 'transactions without select, and with confirms'(scene) {
    const [a, b] = [await scene.channel(), await scene.channel()]
    const commit = await refusalOf(a.txCommit())
    await b.txSelect()
    return { commit, confirms: await refusalOf(b.confirms()) }
  },
}

async function roundTrip(channel: Channel, queue: string, size: number) {
  const body = Buffer.alloc(size, 'sluice ')
  await channel.publish({ routingKey: queue, body })
  await ready(channel, queue, 1)
  const got = (await channel.get(queue, { noAck: true }))!
  return { size: got.body.length, same: hash(got.body) === hash(body) }
}

function hash(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex')
}

async function fresh(scene: Scene, queue: string): Promise<void> {
  await (await scene.channel()).checkQueue(queue)
}
