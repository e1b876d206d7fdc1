/** Metrics as a scraper meets them: names, labels and figures of a broker that has worked. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { type TestContext, test } from 'node:test'
import { privateRedis, waitFor } from '@sluice/testkit'
import { type TestBroker, withBroker } from '../support/broker.ts'

/** A broker with one queue: published to, leased from, one message refused. */
async function worked(t: TestContext): Promise<TestBroker> {
  // Of its own: elsewhere another test's reaper might move the dead letter.
  const { url: redisUrl } = await privateRedis(t, { aof: false })
  const broker = await withBroker(t, { redisUrl })
  await broker.request('PUT', '/queues/q', { body: {} })
  for (let n = 0; n < 5; n++) {
    const { status } = await broker.request('POST', '/queues/q/messages', { body: 'x' })
    assert.equal(status, 200)
  }
  const { json } = await broker.request('POST', '/queues/q/leases', { body: { max: 3 } })
  const [acked, refused] = json.messages
  await broker.request('POST', '/queues/q/settlements', {
    body: {
      settlements: [
        { token: acked.token, outcome: 'ack' },
        { token: refused.token, outcome: 'dead-letter' },
      ],
    },
  })
  const moved = async () => (await figures(broker))('sluice_queue_removed_total', 'dead-lettered')
  await waitFor(async () => (await moved()) === 1, { what: 'the dead letter' })
  return broker
}

/** Reads a series of this test's queue by name and one further label. */
async function figures(broker: TestBroker, path = '/metrics') {
  const { text, status } = await broker.request('GET', path)
  assert.equal(status, 200, text)
  return (name: string, label = '', queue = 'q'): number | undefined => {
    const line = text
      .split('\n')
      .find(
        (one) =>
          one.startsWith(`${name}{`) &&
          one.includes(`vhost="${broker.vhost}",queue="${queue}"`) &&
          one.includes(label),
      )
    return line === undefined ? undefined : Number(line.slice(line.lastIndexOf(' ') + 1))
  }
}

test('what is said of a queue is what happened to it', async (t) => {
  const broker = await worked(t)
  const of = await figures(broker)
  assert.deepEqual(
    {
      ready: of('sluice_queue_messages', 'state="ready"'),
      unacked: of('sluice_queue_messages', 'state="unacked"'),
      published: of('sluice_queue_published_total'),
      delivered: of('sluice_queue_delivered_total'),
      acked: of('sluice_queue_removed_total', 'how="acked"'),
      dead: of('sluice_messages_dead_lettered_total', 'reason="rejected"'),
      consumers: of('sluice_queue_consumers'),
      waited: of('sluice_message_queue_time_seconds_count'),
    },
    {
      ...{ ready: 2, unacked: 1, published: 5, delivered: 3, acked: 1, dead: 1, consumers: 0 },
      waited: 3,
    },
  )
  assert.ok(of('sluice_queue_oldest_seconds')! > 0)
  await broker.request('DELETE', '/queues/q')
  const after = await figures(broker)
  assert.equal(
    after('sluice_message_queue_time_seconds_count'),
    undefined,
    'it left with its queue',
  )
})

test('the process tells of itself and of Redis', async (t) => {
  const broker = await worked(t)
  const pinged = async () => {
    const { text } = await broker.request('GET', '/metrics')
    return /^sluice_redis_round_trip_seconds_count [1-9]/m.test(text) && text
  }
  await waitFor(pinged, { what: 'a round trip' })
  const text = (await pinged()) as string
  for (const line of [
    /^sluice_redis_up 1$/m,
    /^sluice_redis_used_memory_bytes [1-9]\d+$/m,
    /^sluice_append_batch_messages_count [1-9]/m,
    /^sluice_connections\{door="http"\} [1-9]/m,
    /^sluice_connections\{door="amqp"\} 0$/m,
    /^sluice_reaper_passes_total [1-9]/m,
    /^sluice_promises_broken 0$/m,
    /^sluice_event_loop_delay_seconds\{percentile="99"\} /m,
  ]) {
    assert.match(text, line)
  }
})

const PATHS = ['/metrics', '/metrics/rabbitmq', '/metrics/rabbitmq/per-object']

test('promtool finds nothing wrong with any of the pages', async (t) => {
  if (spawnSync('promtool', ['--version']).error) return t.skip('promtool is not on PATH')
  const broker = await worked(t)
  for (const path of PATHS) {
    const { text } = await broker.request('GET', path)
    const { status, stdout, stderr } = spawnSync('promtool', ['check', 'metrics'], { input: text })
    // Names are RabbitMQ's; promtool would like other ones. What it cannot parse is an error.
    const allowed = path === '/metrics' ? [0] : [0, 3]
    assert.ok(allowed.includes(status!), `${path}: ${stdout}${stderr}`)
  }
})

/** What the panels of RabbitMQ's own overview dashboards ask for, of 3.8 and later ones. */
const OVERVIEW = `
  build_info identity_info alarms_memory_used_watermark queue_messages_ready queue_messages_unacked
  channels connections consumers queues global_publishers resident_memory_limit_bytes
  process_resident_memory_bytes disk_space_available_bytes disk_space_available_limit_bytes
  process_max_fds process_open_fds process_max_tcp_sockets process_open_tcp_sockets
  global_messages_received_total global_messages_confirmed_total global_messages_routed_total
  global_messages_received_confirm_total global_messages_unroutable_dropped_total
  global_messages_unroutable_returned_total global_messages_redelivered_total
  global_messages_delivered_consume_manual_ack_total
  global_messages_delivered_consume_auto_ack_total
  global_messages_delivered_get_manual_ack_total global_messages_delivered_get_auto_ack_total
  global_messages_get_empty_total global_messages_acknowledged_total queues_declared_total
  queues_created_total queues_deleted_total channels_opened_total channels_closed_total
  connections_opened_total connections_closed_total channel_consumers
  channel_messages_published_total channel_messages_confirmed_total
  channel_messages_unconfirmed channel_messages_unroutable_dropped_total
  channel_messages_unroutable_returned_total channel_messages_delivered_total
  channel_messages_delivered_ack_total channel_messages_redelivered_total
  channel_messages_acked_total
  channel_messages_get_total channel_messages_get_ack_total channel_get_empty_total`

test('RabbitMQ’s names are all there, summed, and by queue where asked', async (t) => {
  const broker = await worked(t)
  const pageOf = (of: TestBroker) => of.request('GET', '/metrics/rabbitmq')
  const { text } = await pageOf(broker)
  for (const name of OVERVIEW.trim().split(/\s+/)) {
    assert.match(text, new RegExp(`^rabbitmq_${name}(\\{.*\\})? [\\d.e+]+$`, 'm'))
  }
  const acked = /^rabbitmq_global_messages_acknowledged_total\{protocol="http"\} 1$/m
  assert.match(text, acked)
  const { text: each } = await broker.request('GET', '/metrics/rabbitmq/per-object')
  assert.match(text, /^rabbitmq_queues [1-9]/m)
  const mine = `rabbitmq_queue_messages_ready{vhost="${broker.vhost}",queue="q"} 2`
  assert.ok(each.includes(mine), each)
  const other = await withBroker(t, { redisUrl: broker.redisUrl })
  const told = async (of: TestBroker) => /^rabbitmq_queues [1-9]/m.test((await pageOf(of)).text)
  const telling = [await told(broker), await told(other)]
  assert.deepEqual(telling.sort(), [false, true], 'one process of those that share a Redis')
})
