/** Consuming: prefetch, settling, requeueing, cancelling, who gets what. */
import type { Channel, Consumer } from '../client.ts'
import { drain, eventually, ready, refusalOf, type Scenarios, send, shown, text } from '../scene.ts'

/** Long enough for a delivery that should not come. */
const NOTHING_MS = 150

export const consuming: Scenarios = {
  async 'prefetch 1, two consumers'(scene) {
    const setup = await scene.channel()
    const queue = await scene.queue(setup)
    const [slow, quick] = [await scene.channel(), await scene.channel()]
    await slow.qos(1)
    await quick.qos(1)
    const slowly = await slow.consume(queue)
    await send(setup, queue, ['1'])
    const held = text(await slowly.deliveries.next())
    const quickly = await quick.consume(queue)
    await send(setup, queue, ['2', '3', '4', '5'])
    const rest: string[] = []
    for (let n = 0; n < 4; n++) {
      const delivery = await quickly.deliveries.next()
      rest.push(text(delivery))
      await quick.ack(delivery.tag)
    }
    return { held, rest, more: (await slowly.deliveries.within(NOTHING_MS)) !== undefined }
  },

  async 'prefetch as a window'(scene) {
    const channel = await scene.channel()
    const queue = await scene.queue(channel)
    await send(channel, queue, ['1', '2', '3', '4', '5', '6', '7', '8'])
    await channel.qos(3)
    const { deliveries } = await channel.consume(queue)
    const first = await deliveries.take(3)
    const beyond = (await deliveries.within(NOTHING_MS)) !== undefined
    await channel.ack(first[1]!.tag, { multiple: true })
    const second = await deliveries.take(2)
    const beyondAgain = (await deliveries.within(NOTHING_MS)) !== undefined
    return {
      first: first.map(text),
      beyond,
      second: second.map(text),
      beyondAgain,
      ready: (await channel.checkQueue(queue)).messages,
    }
  },

  async 'prefetch of a channel, shared by its consumers'(scene) {
    const setup = await scene.channel()
    const [a, b] = [await scene.queue(setup, 'a'), await scene.queue(setup, 'b')]
    for (const queue of [a, b]) await send(setup, queue, ['1', '2', '3'])
    const channel = await scene.channel()
    await channel.qos(4, { global: true })
    const first = (await channel.consume(a)).deliveries
    await eventually(async () => first.size >= 3) // else the other may get most of the four
    const second = (await channel.consume(b)).deliveries
    await eventually(async () => first.size + second.size >= 4)
    await (await scene.channel()).checkQueue(a)
    return { held: first.size + second.size, first: first.size }
  },

  async 'requeued messages keep their place'(scene) {
    const channel = await scene.channel()
    const queue = await scene.queue(channel)
    await send(channel, queue, ['1', '2', '3'])
    const first = (await channel.get(queue))!
    const second = (await channel.get(queue))!
    await channel.reject(second.tag, { requeue: true })
    await channel.reject(first.tag, { requeue: true })
    await ready(channel, queue, 3)
    return await gets(channel, queue, 3)
  },

  async 'nack, many at once'(scene) {
    const channel = await scene.channel()
    const queue = await scene.queue(channel)
    await send(channel, queue, ['1', '2', '3', '4'])
    const { deliveries, tag } = await channel.consume(queue)
    const four = await deliveries.take(4)
    await channel.cancel(tag)
    await channel.nack(four[2]!.tag, { multiple: true, requeue: true })
    await ready(channel, queue, 3)
    const back = await gets(channel, queue, 3)
    await channel.nack(four[3]!.tag, { requeue: false })
    return { back, left: (await channel.checkQueue(queue)).messages }
  },

  async 'a closed channel gives back what it held'(scene) {
    const setup = await scene.channel()
    const queue = await scene.queue(setup)
    await send(setup, queue, ['1', '2', '3', '4'])
    const channel = await scene.channel()
    await channel.qos(3)
    const { deliveries } = await channel.consume(queue)
    const [first] = await deliveries.take(3)
    await channel.ack(first!.tag)
    await deliveries.next()
    await channel.close()
    await ready(setup, queue, 3)
    return await gets(setup, queue, 3)
  },

  async 'basic.recover'(scene) {
    const channel = await scene.channel()
    const queue = await scene.queue(channel)
    await send(channel, queue, ['1', '2'])
    const { deliveries } = await channel.consume(queue)
    await deliveries.take(2)
    await channel.recover()
    const again = await deliveries.take(2)
    return again.map((delivery) => ({ body: text(delivery), redelivered: delivery.redelivered }))
  },

  async 'basic.get'(scene) {
    const channel = await scene.channel()
    const queue = await scene.queue(channel)
    const none = (await channel.get(queue)) ?? 'empty'
    await send(channel, queue, ['1', '2', '3'])
    await ready(channel, queue, 3)
    const first = (await channel.get(queue))!
    const second = (await channel.get(queue, { noAck: true }))!
    await channel.ack(first.tag)
    const { tag, left, redelivered, exchange, routingKey } = first
    return {
      none: none === 'empty',
      first: { tag, left, redelivered, exchange, routingKey },
      second: { tag: second.tag, left: second.left },
      rest: await drain(channel, queue),
    }
  },

  async 'a delivery settled twice'(scene) {
    const channel = await scene.channel()
    const queue = await scene.queue(channel)
    await send(channel, queue, ['1'])
    await ready(channel, queue, 1)
    const { tag } = (await channel.get(queue))!
    await channel.ack(tag)
    await channel.ack(tag)
    return shown(await channel.closed)
  },

  async 'an ack for what needs none'(scene) {
    const channel = await scene.channel()
    const queue = await scene.queue(channel)
    await send(channel, queue, ['1'])
    const { deliveries } = await channel.consume(queue, { noAck: true })
    const { tag } = await deliveries.next()
    await channel.ack(tag)
    return { closed: shown(await channel.closed), left: await drain(await scene.channel(), queue) }
  },

  async 'consumers are told when their queue is deleted'(scene) {
    const channel = await scene.channel()
    const queue = await scene.queue(channel)
    const consumer = await channel.consume(queue)
    await (await scene.channel()).deleteQueue(queue)
    await consumer.cancelled
    return { channel: await refusalOf(scene.queue(channel, 'another')) }
  },

  async 'cancel: no more deliveries, held ones stay held'(scene) {
    const channel = await scene.channel()
    const other = await scene.channel()
    const queue = await scene.queue(channel)
    await send(channel, queue, ['1'])
    const consumer = await channel.consume(queue)
    const { tag } = await consumer.deliveries.next()
    await channel.cancel(consumer.tag)
    await send(channel, queue, ['2'])
    await ready(other, queue, 1)
    const { messages, consumers } = await other.checkQueue(queue)
    const late = (await consumer.deliveries.within(NOTHING_MS)) !== undefined
    await channel.ack(tag)
    return { messages, consumers, late, rest: await drain(other, queue) }
  },

  async 'consumer tags'(scene) {
    const channel = await scene.channel()
    const queue = await scene.queue(channel)
    const { tag: own } = await channel.consume(queue, { tag: scene.name('mine') })
    const { tag: given } = await channel.consume(queue)
    const { consumers } = await channel.checkQueue(queue)
    return { own, given: given.length > 0, consumers }
  },

  async 'consume from a missing queue'(scene) {
    const channel = await scene.channel()
    return refusalOf(channel.consume(scene.name('missing')))
  },

  async 'exclusive consumer'(scene) {
    const [a, b] = [await scene.channel(), await scene.channel()]
    const queue = await scene.queue(a)
    await a.consume(queue, { exclusive: true })
    const second = await refusalOf(b.consume(queue))
    const c = await scene.channel()
    return { second, exclusive: await refusalOf(c.consume(queue, { exclusive: true })) }
  },

  async 'consumer priorities'(scene) {
    const channel = await scene.channel()
    const queue = await scene.queue(channel)
    const [low, high] = [await scene.channel(), await scene.channel()]
    await low.qos(5)
    await high.qos(2)
    const below = await low.consume(queue, { arguments: { 'x-priority': 1 } })
    const above = await high.consume(queue, { arguments: { 'x-priority': 9 } })
    for (const body of ['1', '2', '3', '4']) {
      await send(channel, queue, [body])
      await eventually(async () => above.deliveries.size + below.deliveries.size >= Number(body))
    }
    return { above: bodies(above), below: bodies(below) }
  },

  async 'single active consumer'(scene) {
    const channel = await scene.channel()
    const queue = await scene.queue(channel, 'queue', {
      arguments: { 'x-single-active-consumer': true },
    })
    const [a, b] = [await scene.channel(), await scene.channel()]
    const first = await a.consume(queue)
    const second = await b.consume(queue)
    await send(channel, queue, ['1', '2'])
    const held = await first.deliveries.take(2)
    const idle = (await second.deliveries.within(NOTHING_MS)) === undefined
    await a.ack(held[0]!.tag)
    await a.close()
    const next = await second.deliveries.next()
    return { idle, next: text(next), redelivered: next.redelivered }
  },

  async priorities(scene) {
    const channel = await scene.channel()
    const queue = await scene.queue(channel, 'queue', { arguments: { 'x-max-priority': 5 } })
    for (const [body, priority] of Object.entries({
      none: undefined,
      a: 1,
      b: 5,
      c: 3,
      d: 9,
      e: 5,
    })) {
      const properties = priority === undefined ? {} : { priority }
      await channel.publish({ routingKey: queue, body, properties })
    }
    await ready(channel, queue, 6)
    return await drain(channel, queue)
  },
}

async function gets(channel: Channel, queue: string, count: number) {
  const seen = []
  for (let n = 0; n < count; n++) {
    const got = (await channel.get(queue, { noAck: true }))!
    seen.push({ body: text(got), redelivered: got.redelivered })
  }
  return seen
}

function bodies({ deliveries }: Consumer): number {
  return deliveries.size
}
