/**
 * What users may do over AMQP: behaviours 62 and 84 of docs/amqp.md, those of others that speak of
 * permissions, and what becomes of a connection whose user loses some.
 */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import type { ClientMethod } from '@sluice/amqp'
import {
  type AmqpBroker,
  type AmqpClient,
  declareExchange,
  declareQueue,
  withAmqp,
} from '../support/amqp-broker.ts'
import { newUser, permit, permitTopics, type Rules, succeed } from '../support/users.ts'
import { confirming, consume, consuming, deleteQueue, get, store } from './methods.ts'

/** A client whose user may do so much, beside one that may do everything. */
async function limited(
  t: TestContext,
  rules: Rules,
): Promise<AmqpBroker & { admin: AmqpClient; peer: AmqpClient; user: string }> {
  const broker = await withAmqp(t)
  const { user, password } = await newUser(broker, rules)
  const admin = await broker.client()
  await admin.queue('mine')
  await admin.queue('other')
  await admin.exchange('x-mine', 'topic')
  await admin.exchange('x-other', 'topic')
  return { ...broker, admin, user, peer: await broker.client({ user, password }) }
}

const noArguments = { noWait: false, arguments: {} }
const bind = (queue: string, exchange: string, routingKey = ''): ClientMethod => ({
  name: 'queue.bind',
  queue,
  exchange,
  routingKey,
  ...noArguments,
})
const bindExchange = (destination: string, source: string): ClientMethod => ({
  name: 'exchange.bind',
  destination,
  source,
  routingKey: '',
  ...noArguments,
})
const purge = (queue: string): ClientMethod => ({ name: 'queue.purge', queue, noWait: false })
const deleteExchange = (exchange: string): ClientMethod => ({
  name: 'exchange.delete',
  exchange,
  ifUnused: false,
  noWait: false,
})
const withDeadLetters = (name: string, exchange: string) =>
  declareQueue(name, { arguments: { 'x-dead-letter-exchange': exchange } })

/** What each needs, by the permission that is missing: [what is missing, on what, the method]. */
const NEEDS: readonly (readonly [keyof Rules, string, ClientMethod])[] = [
  ['configure', `queue 'new'`, declareQueue('new')],
  ['configure', `exchange 'new'`, declareExchange('new', 'fanout')],
  ['configure', `queue 'mine'`, deleteQueue('mine')],
  ['configure', `exchange 'x-mine'`, deleteExchange('x-mine')],
  ['write', `queue 'mine'`, bind('mine', 'x-mine')],
  ['read', `exchange 'x-mine'`, bind('mine', 'x-mine')],
  ['write', `exchange 'x-mine'`, bindExchange('x-mine', 'x-other')],
  ['read', `exchange 'x-other'`, bindExchange('x-mine', 'x-other')],
  ['read', `queue 'mine'`, consume('mine')],
  ['read', `queue 'mine'`, get('mine')],
  ['read', `queue 'mine'`, purge('mine')],
  ['read', `queue 'new'`, withDeadLetters('new', 'x-other')],
  ['write', `exchange 'x-other'`, withDeadLetters('new', 'x-other')],
]

test('no. 84: each method needs its permission, and is 403 on its channel without it', async (t) => {
  const broker = await limited(t, {})
  const { peer, vhost, user } = broker
  for (const [missing, what, method] of NEEDS) {
    await permit(broker, user, { configure: '.*', write: '.*', read: '.*', [missing]: '' })
    const refusal = await peer.refused(method)
    const text = `${missing} access to ${what} in vhost '${vhost}' refused for user '${user}'`
    assert.ok(
      refusal.startsWith(`channel ACCESS_REFUSED - ${text} (403, `),
      `${method.name}: ${refusal}`,
    )
  }
})

test('no. 84: with its permission, on names that its pattern is found in, each method works', async (t) => {
  const { peer, admin } = await limited(t, {
    configure: '^new',
    write: 'mine$',
    read: '^(mine|x-)',
  })
  await peer.queue('new-1')
  await peer.exchange('new-x', 'fanout')
  await peer.call(1, bind('mine', 'x-other'), 'queue.bind-ok')
  await peer.call(1, bindExchange('x-mine', 'x-other'), 'exchange.bind-ok')
  await peer.call(1, consume('mine', { tag: 'c' }), 'basic.consume-ok')
  await peer.call(1, purge('mine'), 'queue.purge-ok')
  await peer.call(1, deleteQueue('new-1'), 'queue.delete-ok')
  await peer.call(1, deleteExchange('new-x'), 'exchange.delete-ok')
  assert.match(await peer.refused(declareQueue('a-new')), /configure access to queue 'a-new'/)
  assert.match(await peer.refused(get('other')), /read access to queue 'other'/)
  await admin.call(1, get('other'), 'basic.get-empty')
})

test('no. 35, 48: an alternate or dead letter exchange needs read on what names it, and write on it', async (t) => {
  const broker = await limited(t, { configure: '.*', read: '.*' })
  const alternate = declareExchange('new', 'fanout', {
    arguments: { 'alternate-exchange': 'x-other' },
  })
  assert.match(await broker.peer.refused(alternate), /write access to exchange 'x-other'/)
  const letters = declareQueue('new', { arguments: { 'x-dead-letter-exchange': 'x-other' } })
  assert.match(await broker.peer.refused(letters), /write access to exchange 'x-other'/)
  await permit(broker, broker.user, { configure: '.*', write: '.*' })
  assert.match(await broker.peer.refused(alternate), /read access to exchange 'new'/)
  assert.match(await broker.peer.refused(letters), /read access to queue 'new'/)
  await permit(broker, broker.user, { configure: '.*', write: '^x-other$', read: '^new$' })
  await broker.peer.call(1, alternate, 'exchange.declare-ok')
  await broker.peer.call(1, letters, 'queue.declare-ok')
})

test('no. 43: to see that something is there, any permission on it will do', async (t) => {
  const broker = await limited(t, { read: '^mine$' })
  await broker.peer.queue('mine', { passive: true })
  await permit(broker, broker.user, { write: '^x-mine$' })
  await broker.peer.exchange('x-mine', 'topic', { passive: true })
  const hidden = declareQueue('mine', { passive: true })
  assert.match(await broker.peer.refused(hidden), /configure access to queue 'mine'/)
  const absent = declareQueue('absent', { passive: true })
  assert.match(await broker.peer.refused(absent), /ACCESS_REFUSED/, 'nor what is not there')
})

test('no. 84: a name by the server is checked as the name that it will be', async (t) => {
  const { peer } = await limited(t, { configure: '^amq\\.gen-' })
  assert.match(await peer.queue(''), /^amq\.gen-/)
  assert.match(await peer.refused(declareQueue('q')), /ACCESS_REFUSED/)
})

test('no. 62: a publish needs write on its exchange, the default one by the name amq.default', async (t) => {
  const broker = await limited(t, { write: '^x-mine$' })
  const { peer, vhost, user } = broker
  await confirming(peer)
  peer.publish(1, 'x-mine', 'key', 'x')
  await peer.expect('basic.ack', 1)
  const refused = async (exchange: string, shown: string) =>
    assert.equal(
      await peer.refusal(() => peer.publish(1, exchange, 'mine', 'x')),
      `channel ACCESS_REFUSED - write access to exchange '${shown}' in vhost '${vhost}' refused for ` +
        `user '${user}' (403, method 60.40)`,
    )
  await refused('x-other', 'x-other')
  await refused('', 'amq.default')
  await refused('absent', 'absent')
  await permit(broker, user, { write: '^amq\\.default$' })
  await confirming(peer)
  await store(peer, 'mine', ['1'])
  await refused('x-mine', 'x-mine')
})

test('no. 62: topic permissions limit routing keys at topic exchanges, those of CC too', async (t) => {
  const broker = await limited(t, { write: '.*', read: '.*' })
  const { peer, vhost, user } = broker
  await permitTopics(broker, user, [
    { exchange: 'x-mine', write: '^{username}\\.', read: '^{vhost}\\.public\\.' },
  ])
  await confirming(peer)
  peer.publish(1, 'x-mine', `${user}.a`, 'x')
  await peer.expect('basic.ack', 1)
  peer.publish(1, 'x-other', 'any', 'an exchange without a rule')
  await peer.expect('basic.ack', 1)
  assert.equal(
    await peer.refusal(() => peer.publish(1, 'x-mine', 'b', 'x')),
    `channel ACCESS_REFUSED - write access to topic 'b' in exchange 'x-mine' in vhost '${vhost}' ` +
      `refused for user '${user}' (403, method 60.40)`,
  )
  for (const name of ['CC', 'BCC']) {
    const properties = { headers: { [name]: ['b'] } }
    const send = () => peer.publish(1, 'x-mine', `${user}.a`, 'x', { properties })
    assert.match(await peer.refusal(send), /write access to topic 'b'/, name)
  }
  assert.match(
    await peer.refused(bind('mine', 'x-mine', '#')),
    /read access to topic '#' in exchange/,
  )
  await peer.call(1, bind('mine', 'x-mine', `${vhost}.public.#`), 'queue.bind-ok')
})

test('no. 61: an impersonator publishes with the user-id of somebody else', async (t) => {
  const broker = await withAmqp(t)
  const rules = { write: '.*' }
  const { user, password } = await newUser(broker, rules, ['impersonator'])
  const peer = await broker.client({ user, password })
  await confirming(peer)
  peer.publish(1, 'amq.topic', 'key', 'x', { properties: { userId: 'eve' } })
  await peer.expect('basic.ack', 1)
  const plain = await newUser(broker, rules)
  const other = await broker.client(plain)
  const send = () => other.publish(1, 'amq.topic', 'key', 'x', { properties: { userId: 'eve' } })
  assert.match(await other.refusal(send), /user_id property set to 'eve'/)
})

test('no. 9: a vhost without a permission of the user is 530, whatever the password', async (t) => {
  const broker = await withAmqp(t)
  const { user, password } = await newUser(broker)
  await assert.rejects(
    broker.client({ user, password }),
    new RegExp(`access to vhost '${broker.vhost}' refused for user '${user}'`),
  )
})

test('no. 17, 68: consumers of queues that the user may no longer read are cancelled within 2 s', async (t) => {
  const broker = await withAmqp(t)
  const { user, password } = await newUser(broker, { configure: '.*', read: '.*' })
  const capabilities = { consumer_cancel_notify: true }
  const peer = await broker.client({ user, password, clientProperties: { capabilities } })
  await peer.queue('kept')
  await peer.queue('lost')
  await consuming(peer, 'kept', { tag: 'kept' })
  await consuming(peer, 'lost', { tag: 'lost' })
  await permit(broker, user, { configure: '.*', read: '^kept$' })
  assert.equal((await peer.expect('basic.cancel', 1)).consumerTag, 'lost')
  const { consumerCount } = await (await broker.client()).call(
    1,
    declareQueue('lost', { passive: true }),
    'queue.declare-ok',
  )
  assert.equal(consumerCount, 0)
})

test('no. 16: a connection whose user is deleted, gets a new password or loses its vhost ends with 320', async (t) => {
  const broker = await withAmqp(t)
  const ends = [
    ['was deleted', (user: string) => succeed(broker, 'DELETE', `/v1/users/${user}`)],
    [
      'the password of user',
      (user: string) => succeed(broker, 'PUT', `/v1/users/${user}`, { password: 'another one' }),
    ],
    [
      'access to vhost',
      (user: string) => succeed(broker, 'DELETE', `/v1/users/${user}/permissions/${broker.vhost}`),
    ],
  ] as const
  for (const [why, end] of ends) {
    const { user, password } = await newUser(broker, { read: '.*' })
    const peer = await broker.client({ user, password })
    const since = performance.now()
    await end(user)
    const { replyCode, replyText } = await peer.expect('connection.close', 0)
    assert.equal(replyCode, 320)
    assert.match(replyText, /^CONNECTION_FORCED - /)
    assert.ok(replyText.includes(why) && replyText.includes(user), replyText)
    assert.ok(performance.now() - since < 2_000)
  }
})

test('no. 16: an API key opens a connection, and its end closes it: revoked, or by itself', async (t) => {
  const broker = await withAmqp(t)
  const { user } = await newUser(broker, { read: '.*' })
  const make = async (rest: object) =>
    (await succeed(broker, 'POST', '/v1/api-keys', { owner: user, ...rest })).json
  const expiring = await make({ expiresInMs: 1_000 })
  const revoked = await make({})
  const first = await broker.client({ user: 'whoever', password: expiring.key })
  const second = await broker.client({ user, password: revoked.key })
  const expired = await first.expect('connection.close', 0)
  assert.equal(expired.replyText, 'CONNECTION_FORCED - credential expired')
  await succeed(broker, 'DELETE', `/v1/api-keys/${revoked.id}`)
  const { replyText } = await second.expect('connection.close', 0)
  assert.match(replyText, new RegExp(`^CONNECTION_FORCED - API key '${revoked.id}' was deleted`))
  await assert.rejects(broker.client({ user, password: revoked.key }), /hung up/)
})
