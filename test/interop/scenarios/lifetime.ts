/** What ends: messages that expire, overflow or are rejected, queues nobody uses. */
import type { Channel, Json } from '../client.ts'
import { drain, eventually, ready, refusalOf, type Scenarios, send, sleep, text } from '../scene.ts'

export const lifetime: Scenarios = {
  async 'dead letters: rejected'(scene) {
    const channel = await scene.channel()
    const exchange = await scene.exchange(channel, 'dlx', 'fanout')
    const grave = await scene.queue(channel, 'grave')
    await channel.bind(grave, exchange, '')
    const queue = await scene.queue(channel, 'queue', {
      arguments: { 'x-dead-letter-exchange': exchange },
    })
    await channel.publish({
      routingKey: queue,
      body: 'x',
      properties: { headers: { own: 'kept' }, messageId: 'm1', expiration: '60000' },
    })
    await ready(channel, queue, 1)
    await channel.reject((await channel.get(queue))!.tag)
    await ready(channel, grave, 1)
    return shownDeath((await channel.get(grave, { noAck: true }))!)
  },

  async 'dead letters: expired, with a key of their own'(scene) {
    const channel = await scene.channel()
    const grave = await scene.queue(channel, 'grave')
    const queue = await scene.queue(channel, 'queue', {
      arguments: { 'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': grave },
    })
    const properties = { expiration: '50', headers: { CC: [scene.name('nowhere')] } }
    await channel.publish({ routingKey: queue, body: 'x', properties })
    await ready(channel, grave, 1)
    return shownDeath((await channel.get(grave, { noAck: true }))!)
  },

  async 'dead letters: overflow'(scene) {
    const channel = await scene.channel()
    const grave = await scene.queue(channel, 'grave')
    const args = { 'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': grave }
    const head = await scene.queue(channel, 'head', { arguments: { ...args, 'x-max-length': 1 } })
    const refused = await scene.queue(channel, 'refused', {
      arguments: { ...args, 'x-max-length': 1, 'x-overflow': 'reject-publish-dlx' },
    })
    await channel.confirms()
    const answers = []
    for (const queue of [head, refused]) {
      for (const body of ['1', '2'])
        answers.push(await channel.publish({ routingKey: queue, body }))
    }
    await ready(channel, grave, 2)
    const first = shownDeath((await channel.get(grave, { noAck: true }))!)
    const second = shownDeath((await channel.get(grave, { noAck: true }))!)
    return {
      answers,
      first,
      second,
      kept: [await drain(channel, head), await drain(channel, refused)],
    }
  },

  async 'dead letters: twice through the same queue'(scene) {
    const channel = await scene.channel()
    // Retry by a waiting queue: rejected there, expired here, and back.
    const [work, wait] = [scene.name('work'), scene.name('wait')]
    const back = (key: string) => ({
      'x-dead-letter-exchange': '',
      'x-dead-letter-routing-key': key,
    })
    await scene.queue(channel, 'work', { arguments: back(wait) })
    await scene.queue(channel, 'wait', { arguments: { ...back(work), 'x-message-ttl': 50 } })
    await send(channel, work, ['x'])
    for (let round = 0; round < 2; round++) {
      await ready(channel, work, 1)
      await channel.reject((await channel.get(work))!.tag)
    }
    await ready(channel, work, 1)
    return shownDeath((await channel.get(work, { noAck: true }))!)
  },

  async 'dead letters: a circle of expiry ends'(scene) {
    const channel = await scene.channel()
    const queue = scene.name('queue')
    await scene.queue(channel, 'queue', {
      arguments: {
        'x-message-ttl': 50,
        'x-dead-letter-exchange': '',
        'x-dead-letter-routing-key': queue,
      },
    })
    await channel.confirms()
    await send(channel, queue, ['x'])
    await ready(channel, queue, 0)
    await sleep(150)
    return { left: await drain(channel, queue) }
  },

  async 'dead letters: no exchange there'(scene) {
    const channel = await scene.channel()
    const queue = await scene.queue(channel, 'queue', {
      arguments: { 'x-dead-letter-exchange': scene.name('missing') },
    })
    await send(channel, queue, ['x'])
    await ready(channel, queue, 1)
    await channel.reject((await channel.get(queue))!.tag)
    return {
      left: await drain(channel, queue),
      channel: await refusalOf(channel.checkQueue(queue)),
    }
  },

  async 'message ttl'(scene) {
    const channel = await scene.channel()
    const plain = await scene.queue(channel, 'plain')
    const limited = await scene.queue(channel, 'limited', { arguments: { 'x-message-ttl': 150 } })
    await channel.confirms() // counts may lag behind what is not confirmed
    await send(channel, plain, ['short'], { expiration: '50' })
    await send(channel, plain, ['lasting'])
    await send(channel, limited, ['queue'], { expiration: '60000' })
    await send(channel, limited, ['own'], { expiration: '50' })
    const dropped = eventually(async () => (await channel.checkQueue(limited)).messages === 0)
    await Promise.all([dropped, ready(channel, plain, 1)])
    return { plain: await drain(channel, plain), limited: await drain(channel, limited) }
  },

  async 'ttl 0: to a waiting consumer or to nobody'(scene) {
    const channel = await scene.channel()
    const queue = await scene.queue(channel, 'queue', { arguments: { 'x-message-ttl': 0 } })
    await channel.confirms()
    await send(channel, queue, ['nobody'])
    const { messages } = await channel.checkQueue(queue)
    const { deliveries } = await channel.consume(queue)
    await send(channel, queue, ['somebody'])
    return { messages, seen: text(await deliveries.next()) }
  },

  async 'a held message does not expire'(scene) {
    const channel = await scene.channel()
    const queue = await scene.queue(channel, 'queue', { arguments: { 'x-message-ttl': 1_000 } })
    await send(channel, queue, ['held'])
    const held = await channel.get(queue)
    if (held === undefined) throw new Error('expired before it was fetched')
    await sleep(1_500)
    await channel.ack(held.tag)
    return { channel: await refusalOf(channel.checkQueue(queue)) }
  },

  async 'queues expire'(scene) {
    const channel = await scene.channel()
    const used = await scene.queue(channel, 'used', { arguments: { 'x-expires': 1_500 } })
    const idle = await scene.queue(channel, 'idle', { arguments: { 'x-expires': 1_500 } })
    await channel.consume(used)
    const gone = async (queue: string) =>
      (await refusalOf((await scene.channel()).checkQueue(queue))) !== 'allowed'
    // A passive declare counts as use, so they are rare.
    for (let look = 0; look < 4; look++) {
      await sleep(3_000 * (look + 1))
      if (await gone(idle)) return { idle: true, used: await gone(used) }
    }
    return { idle: false, used: await gone(used) }
  },
}

/** Where a dead letter ended, without the times. */
function shownDeath(message: Awaited<ReturnType<Channel['get']>> & {}): Json {
  const { exchange, routingKey, properties } = message
  return withoutTimes({ exchange, routingKey, properties, body: text(message) })
}

function withoutTimes(value: Json): Json {
  if (Array.isArray(value)) return value.map(withoutTimes)
  if (value === null || typeof value !== 'object') return value
  return Object.fromEntries(
    Object.entries(value as Record<string, Json>).map(([name, inner]) => [
      name,
      name === 'time' ? 'a time' : withoutTimes(inner),
    ]),
  )
}
