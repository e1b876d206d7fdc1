/** Exchanges, queues and bindings: where messages go, and what is refused. */
import type { Arguments, Channel, Json, QueueOptions } from '../client.ts'
import { drain, eventually, refusalOf, type Scenarios, type Scene, send } from '../scene.ts'

export const topology: Scenarios = {
  async 'direct and fanout'(scene) {
    const channel = await scene.channel()
    const direct = await scene.exchange(channel, 'direct', 'direct', { durable: true })
    const fanout = await scene.exchange(channel, 'fanout', 'fanout')
    const [a, b] = [await scene.queue(channel, 'a'), await scene.queue(channel, 'b')]
    await channel.bind(a, direct, 'x')
    await channel.bind(a, direct, 'y')
    await channel.bind(b, direct, 'y')
    await channel.bind(b, direct, 'y') // a second time changes nothing
    for (const queue of [a, b]) await channel.bind(queue, fanout, 'ignored')
    for (const routingKey of ['x', 'y', 'z']) {
      await channel.publish({ exchange: direct, routingKey, body: routingKey })
    }
    await channel.publish({ exchange: fanout, routingKey: 'any', body: 'all' })
    await channel.unbind(b, direct, 'y')
    await channel.unbind(b, direct, 'never bound')
    await channel.publish({ exchange: direct, routingKey: 'y', body: 'unbound' })
    return { a: await drain(channel, a), b: await drain(channel, b) }
  },

  async topic(scene) {
    const channel = await scene.channel()
    const exchange = await scene.exchange(channel, 'topic', 'topic')
    const patterns = ['a.*', 'a.#', '#', '*.b', '#.b.#', '*', 'a.b', '*.*', '#.#', 'a.*.c', '']
    return await routing(
      scene,
      channel,
      exchange,
      patterns.map((key) => ({ key })),
      [
        ...['a', 'a.b', 'a.b.c', 'b', 'x.b', 'x.y.b.z', '', '.', 'a.', 'a..c'].map((key) => ({
          key,
        })),
      ],
    )
  },

  async headers(scene) {
    const channel = await scene.channel()
    const exchange = await scene.exchange(channel, 'headers', 'headers')
    const matches: Arguments[] = [
      { 'x-match': 'all', a: 1, b: 'x' },
      { 'x-match': 'any', a: 1, b: 'x' },
      { a: 1 },
      { 'x-match': 'any', c: null },
      { 'x-match': 'all', 'x-ignored': 1, a: 1 },
      { 'x-match': 'all' },
      { 'x-match': 'any' },
    ]
    const messages: Arguments[] = [{ a: 1, b: 'x' }, { a: 1 }, { a: '1' }, { c: 'there' }, {}]
    return await routing(
      scene,
      channel,
      exchange,
      matches.map((args) => ({ key: '', args })),
      messages.map((headers) => ({ key: '', headers })),
    )
  },

  async 'exchange to exchange'(scene) {
    const channel = await scene.channel()
    const from = await scene.exchange(channel, 'from', 'topic')
    const to = await scene.exchange(channel, 'to', 'fanout')
    const queue = await scene.queue(channel)
    await channel.bind(queue, to, '')
    await channel.bind(queue, from, 'both') // twice reached, once delivered
    await channel.bindExchange(to, from, '*')
    await channel.bindExchange(from, to, '#') // a circle
    for (const routingKey of ['one', 'both', 'two.words']) {
      await channel.publish({ exchange: from, routingKey, body: routingKey })
    }
    const seen = await drain(channel, queue)
    await channel.unbindExchange(to, from, '*')
    await channel.publish({ exchange: from, routingKey: 'one', body: 'unbound' })
    return { seen, after: await drain(channel, queue) }
  },

  async 'alternate exchange'(scene) {
    const channel = await scene.channel()
    const other = await scene.exchange(channel, 'other', 'fanout')
    const exchange = await scene.exchange(channel, 'main', 'direct', {
      arguments: { 'alternate-exchange': other },
    })
    const [known, rest] = [await scene.queue(channel, 'known'), await scene.queue(channel, 'rest')]
    await channel.bind(known, exchange, 'known')
    await channel.bind(rest, other, '')
    await channel.confirms()
    for (const routingKey of ['known', 'unknown']) {
      await channel.publish({ exchange, routingKey, body: routingKey, mandatory: true })
    }
    return {
      known: await drain(channel, known),
      rest: await drain(channel, rest),
      returned: channel.returned.size,
    }
  },

  async 'the default exchange'(scene) {
    const seen: Record<string, Json> = {}
    const attempt = async (what: string, act: (channel: Channel) => Promise<unknown>) => {
      seen[what] = await refusalOf(act(await scene.channel()))
    }
    const queue = await scene.queue(await scene.channel())
    await attempt('bind', (channel) => channel.bind(queue, '', 'key'))
    await attempt('delete', (channel) => channel.deleteExchange('amq.direct'))
    await attempt('declare', (channel) => channel.declareExchange('amq.mine', 'direct'))
    await attempt('queue', (channel) => channel.declareQueue('amq.mine'))
    await attempt('passive', (channel) => channel.checkExchange('amq.topic'))
    await attempt('again', (channel) =>
      channel.declareExchange('amq.topic', 'topic', { durable: true }),
    )
    await attempt('match', (channel) => channel.checkExchange('amq.match'))
    return seen
  },

  async 'passive declare of what is missing'(scene) {
    const connection = await scene.connect()
    const queue = await refusalOf((await connection.channel()).checkQueue(scene.name('missing')))
    const exchange = await refusalOf(
      (await connection.channel()).checkExchange(scene.name('missing')),
    )
    const bind = await refusalOf(
      (await connection.channel()).bind(scene.name('missing'), 'amq.direct', 'x'),
    )
    const channel = await connection.channel()
    return { queue, exchange, bind, survives: await refusalOf(scene.queue(channel)) }
  },

  async 'redeclare with other arguments'(scene) {
    const queue = await scene.queue(await scene.channel(), 'queue', {
      durable: true,
      arguments: { 'x-message-ttl': 60_000, 'x-custom': 'a' },
    })
    const same = { 'x-message-ttl': 60_000, 'x-custom': 'a' }
    const attempts: Record<string, QueueOptions> = {
      same: { durable: true, arguments: same },
      transient: { durable: false, arguments: same },
      'auto-delete': { durable: true, autoDelete: true, arguments: same },
      exclusive: { durable: true, exclusive: true, arguments: same },
      'no ttl': { durable: true, arguments: { 'x-custom': 'a' } },
      'other ttl': { durable: true, arguments: { 'x-message-ttl': 1 } },
      'one more': { durable: true, arguments: { ...same, 'x-max-length': 5 } },
      'other custom': { durable: true, arguments: { ...same, 'x-custom': 'b' } },
    }
    const seen: Record<string, Json> = {}
    for (const [what, options] of Object.entries(attempts)) {
      seen[what] = await refusalOf((await scene.channel()).declareQueue(queue, options))
    }
    const exchange = await scene.exchange(await scene.channel(), 'exchange', 'direct')
    for (const [what, type, options] of [
      ['exchange type', 'topic', {}],
      ['exchange durable', 'direct', { durable: true }],
      ['exchange auto-delete', 'direct', { autoDelete: true }],
      ['exchange alternate', 'direct', { arguments: { 'alternate-exchange': 'x' } }],
      ['exchange custom', 'direct', { arguments: { 'x-custom': 'x' } }],
    ] as const) {
      const channel = await scene.channel()
      seen[what] = await refusalOf(channel.declareExchange(exchange, type, options))
    }
    return seen
  },

  async 'arguments that make no sense'(scene) {
    const attempts: Record<string, Arguments> = {
      'negative ttl': { 'x-message-ttl': -1 },
      'ttl as text': { 'x-message-ttl': 'soon' },
      'expires 0': { 'x-expires': 0 },
      'key without exchange': { 'x-dead-letter-routing-key': 'x' },
      'exchange as number': { 'x-dead-letter-exchange': 1 },
      'priority 256': { 'x-max-priority': 256 },
      'unknown overflow': { 'x-overflow': 'explode' },
      'single active as text': { 'x-single-active-consumer': 'yes' },
      'unknown type': { 'x-queue-type': 'magic' },
      'negative length': { 'x-max-length': -1 },
      foreign: { 'x-of-another-broker': { deep: [1] } },
    }
    const seen: Record<string, Json> = {}
    for (const [what, args] of Object.entries(attempts)) {
      const channel = await scene.channel()
      seen[what] = await refusalOf(scene.queue(channel, what, { arguments: args }))
    }
    const channel = await scene.channel()
    seen['exchange type'] = await refusalOf(scene.exchange(channel, 'odd', 'x-magic'))
    return seen
  },

  async 'purge and delete count'(scene) {
    const channel = await scene.channel()
    const queue = await scene.queue(channel)
    await send(channel, queue, ['1', '2', '3', '4'])
    const held = (await channel.get(queue))!
    const purged = await channel.purge(queue)
    await channel.reject(held.tag, { requeue: true })
    await send(channel, queue, ['5'])
    const notEmpty = await refusalOf((await scene.channel()).deleteQueue(queue, { ifEmpty: true }))
    await channel.consume(queue)
    const used = await refusalOf((await scene.channel()).deleteQueue(queue, { ifUnused: true }))
    const full = await scene.queue(channel, 'full')
    await send(channel, full, ['1', '2'])
    return {
      purged,
      notEmpty,
      used,
      deleted: await channel.deleteQueue(full),
      again: await channel.deleteQueue(full),
    }
  },

  async 'delete an exchange in use'(scene) {
    const channel = await scene.channel()
    const exchange = await scene.exchange(channel, 'exchange', 'direct')
    const queue = await scene.queue(channel)
    await channel.bind(queue, exchange, 'x')
    const used = await refusalOf(
      (await scene.channel()).deleteExchange(exchange, { ifUnused: true }),
    )
    await channel.deleteExchange(exchange)
    await channel.deleteExchange(exchange)
    await channel.publish({ exchange, routingKey: 'x' })
    return { used, closed: (await channel.closed).code }
  },

  async 'exclusive queues'(scene) {
    const owner = await scene.connect()
    const queue = await scene.queue(await owner.channel(), 'queue', { exclusive: true })
    const other = async () => await scene.channel()
    const seen: Record<string, Json> = {
      declare: await refusalOf((await other()).declareQueue(queue, { exclusive: true })),
      passive: await refusalOf((await other()).checkQueue(queue)),
      consume: await refusalOf((await other()).consume(queue)),
      get: await refusalOf((await other()).get(queue)),
      delete: await refusalOf((await other()).deleteQueue(queue)),
    }
    await owner.close()
    return { ...seen, afterwards: await refusalOf((await other()).checkQueue(queue)) }
  },

  async 'auto-delete'(scene) {
    const channel = await scene.channel()
    const queue = await scene.queue(channel, 'queue', { autoDelete: true })
    const exchange = await scene.exchange(channel, 'exchange', 'fanout', { autoDelete: true })
    await channel.bind(queue, exchange, '')
    const first = await channel.consume(queue)
    const second = await channel.consume(queue)
    await channel.cancel(first.tag)
    const withOne = await refusalOf((await scene.channel()).checkQueue(queue))
    await channel.cancel(second.tag)
    const gone = async (check: (other: Channel) => Promise<unknown>) =>
      (await refusalOf(check(await scene.channel()))) !== 'allowed'
    await eventually(() => gone((other) => other.checkQueue(queue)))
    await eventually(() => gone((other) => other.checkExchange(exchange)))
    return { withOne: withOne === 'allowed', gone: true }
  },

  async 'names the server makes up'(scene) {
    const channel = await scene.channel()
    const { name, messages, consumers } = await channel.declareQueue('', { exclusive: true })
    const other = await channel.declareQueue('', { exclusive: true })
    await send(channel, name, ['x'])
    return {
      name: name.replace(/-.*/, '-…'),
      messages,
      consumers,
      distinct: name !== other.name,
      seen: await drain(channel, name),
    }
  },

  async 'unicode and long names'(scene) {
    const channel = await scene.channel()
    const exchange = await scene.exchange(channel, 'обмен.交換.🐇', 'topic')
    const queue = await scene.queue(channel, 'очередь/待ち行列 {🐇}:')
    const long = 'k'.repeat(255)
    await channel.bind(queue, exchange, 'ключ.*')
    await channel.bind(queue, exchange, long)
    await channel.publish({ exchange, routingKey: 'ключ.鍵', body: 'unicode' })
    await channel.publish({ exchange, routingKey: long, body: 'long' })
    const got = (await channel.get(queue, { noAck: true }))!
    return { exchange: got.exchange, key: got.routingKey, more: await drain(channel, queue) }
  },
}

/** Which of the bindings each message goes through: a queue for each, and their numbers. */
async function routing(
  scene: Scene,
  channel: Channel,
  exchange: string,
  bindings: readonly { key: string; args?: Arguments }[],
  messages: readonly { key: string; headers?: Arguments }[],
): Promise<Json> {
  const queues: string[] = []
  for (const [index, { key, args }] of bindings.entries()) {
    const queue = await scene.queue(channel, `q${index}`)
    await channel.bind(queue, exchange, key, args)
    queues.push(queue)
  }
  for (const [index, { key, headers }] of messages.entries()) {
    await channel.publish({
      exchange,
      routingKey: key,
      body: String(index),
      ...(headers && { properties: { headers } }),
    })
  }
  const seen: Record<string, string> = {}
  for (const [index, queue] of queues.entries()) {
    const { key, args } = bindings[index]!
    const through = (await drain(channel, queue)).map((n) => {
      const message = messages[Number(n)]!
      return message.headers ? JSON.stringify(message.headers) : `'${message.key}'`
    })
    seen[args ? JSON.stringify(args) : `'${key}'`] = through.join(' ')
  }
  return seen
}
