/** Connections and channels: logging in, many of them, losing them, keeping them alive. */
import { tcpProxy } from '../../support/tcp-proxy.ts'
import { drain, ready, refusalOf, type Scenarios, send, shown, sleep, text } from '../scene.ts'

export const connections: Scenarios = {
  async '200 channels on a connection'(scene) {
    const connection = await scene.connect()
    const channels = []
    for (let n = 0; n < 200; n++) channels.push(await connection.channel())
    const queue = await scene.queue(channels[0]!)
    await Promise.all(
      channels.map((channel, n) => channel.publish({ routingKey: queue, body: String(n) })),
    )
    await ready(channels[0]!, queue, 200)
    await Promise.all(channels.slice(1).map((channel) => channel.close()))
    return { stored: (await drain(channels[0]!, queue)).length }
  },

  async 'a channel number is free again once closed'(scene) {
    const connection = await scene.connect()
    for (let n = 0; n < 50; n++) {
      const channel = await connection.channel()
      if (n % 2 === 0) await channel.close()
      else await refusalOf(channel.checkQueue(scene.name('missing')))
    }
    return refusalOf(scene.queue(await connection.channel()))
  },

  async 'a wrong password'(scene) {
    const url = new URL(scene.url)
    url.password = 'wrong'
    return refusalOf(scene.connect({}, url.href))
  },

  async 'a vhost that does not exist'(scene) {
    return refusalOf(scene.connect({}, `${scene.url}/nowhere`))
  },

  async heartbeats(scene) {
    const connection = await scene.connect({ heartbeatSeconds: 1 })
    const channel = await connection.channel()
    const queue = await scene.queue(channel)
    const lost = await Promise.race([connection.closed, sleep(4_000)])
    await send(channel, queue, ['still here'])
    return { lost: lost !== undefined, seen: await drain(channel, queue) }
  },

  async 'a client that stops sending heartbeats is cut off'(scene) {
    const proxy = await tcpProxy(Number(new URL(scene.url).port))
    try {
      const url = new URL(scene.url)
      url.port = String(proxy.port)
      const connection = await scene.connect({ heartbeatSeconds: 1 }, url.href)
      const queue = await scene.queue(await connection.channel(), 'queue', { exclusive: true })
      proxy.stall()
      const other = await scene.channel()
      await refusalOf(other.checkQueue(queue))
      const start = performance.now()
      while (performance.now() - start < 30_000) {
        const seen = await refusalOf((await scene.channel()).checkQueue(queue))
        if (typeof seen === 'object' && seen !== null && 'code' in seen && seen['code'] === 404) {
          return { queueGone: true, soon: performance.now() - start < 15_000 }
        }
        await sleep(100)
      }
      return { queueGone: false }
    } finally {
      await proxy.close()
    }
  },

  async 'a lost socket gives back what it held'(scene) {
    const proxy = await tcpProxy(Number(new URL(scene.url).port))
    try {
      const url = new URL(scene.url)
      url.port = String(proxy.port)
      const connection = await scene.connect({}, url.href)
      const channel = await connection.channel()
      const watch = await scene.channel()
      const queue = await scene.queue(watch)
      await send(watch, queue, ['1', '2'])
      const { deliveries } = await channel.consume(queue)
      await deliveries.take(2)
      proxy.reset()
      await connection.closed
      await ready(watch, queue, 2)
      const got = (await watch.get(queue, { noAck: true }))!
      return { first: text(got), redelivered: got.redelivered, rest: await drain(watch, queue) }
    } finally {
      await proxy.close()
    }
  },

  async 'direct reply-to'(scene) {
    const server = await scene.channel()
    const queue = await scene.queue(server)
    const requests = await server.consume(queue, { noAck: true })
    const client = await scene.channel()
    const replies = await client.consume('amq.rabbitmq.reply-to', { noAck: true })
    for (const n of ['1', '2']) {
      await client.publish({
        routingKey: queue,
        body: n,
        properties: { replyTo: 'amq.rabbitmq.reply-to', correlationId: n },
      })
    }
    for (const request of await requests.deliveries.take(2)) {
      const { replyTo, correlationId } = request.properties as Record<string, string>
      await server.publish({
        routingKey: replyTo!,
        body: `answer to ${text(request)}`,
        properties: { correlationId: correlationId! },
      })
    }
    const answers = await replies.deliveries.take(2)
    return answers.map((answer) => ({
      body: text(answer),
      exchange: answer.exchange,
      key: answer.routingKey,
      correlation: answer.properties['correlationId']!,
    }))
  },

  async 'direct reply-to, used wrongly'(scene) {
    const [a, b] = [await scene.channel(), await scene.channel()]
    const acked = await refusalOf(a.consume('amq.rabbitmq.reply-to'))
    const queue = await scene.queue(await scene.channel())
    const properties = { replyTo: 'amq.rabbitmq.reply-to' }
    await b.publish({ routingKey: queue, body: 'x', properties })
    return { acked, noConsumer: shown(await b.closed) }
  },

  async 'a reply to nobody'(scene) {
    const channel = await scene.channel()
    await channel.confirms()
    const routingKey = 'amq.rabbitmq.reply-to.nobody'
    const answer = await channel.publish({ routingKey, body: 'x', mandatory: true })
    return { answer, returned: (await channel.returned.within(1_000))?.code ?? 'not' }
  },
}
