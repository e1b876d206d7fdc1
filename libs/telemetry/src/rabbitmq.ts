/**
 * Metrics under the names of the rabbitmq_prometheus plugin, for dashboards and alerts made for it.
 *
 * What a process counts is its own, as a node's is; totals of queues are given by one process of
 * those that share a Redis. What has no counterpart here is 0 where its panels divide or subtract
 * by it, and else left out.
 */
import type { Family, Series } from './exposition.ts'
import type { Metrics } from './metrics.ts'
import type { QueueReading } from './queue-figures.ts'

interface RabbitmqFacts {
  /** Those that this process tells of. */
  readonly queues: readonly QueueReading[]
  readonly queueCount: number
  readonly perObject: boolean
  readonly version: string
  readonly node: string
  readonly redisMaxBytes: number
}

type Row = readonly [name: string, kind: Family['kind'], doc: string, value: number]

/** By queue: what the plugin calls it, and where it comes from. */
const OF_QUEUE: readonly (readonly [
  string,
  Family['kind'],
  string,
  (q: QueueReading) => number,
])[] = [
  ['messages_ready', 'gauge', 'Messages ready to be delivered to consumers', (q) => q.ready],
  [
    'messages_unacked',
    'gauge',
    'Messages delivered to consumers but not yet acknowledged',
    (q) => q.unacked,
  ],
  ['messages', 'gauge', 'Sum of ready and unacknowledged messages', (q) => q.ready + q.unacked],
  ['messages_ready_bytes', 'gauge', 'Size in bytes of ready messages', (q) => q.bytes],
  ['messages_persistent', 'gauge', 'Persistent messages', (q) => q.ready + q.unacked],
  ['messages_published_total', 'counter', 'Total number of messages published', (q) => q.published],
  ['consumers', 'gauge', 'Consumers on a queue', (q) => q.consumers],
  ['get_empty_total', 'counter', 'Times a get operation fetched no message', () => 0],
]

export function rabbitmqFamilies(metrics: Metrics, facts: RabbitmqFacts): Family[] {
  const labels = facts.perObject ? undefined : {}
  const rows = [...totals(facts), ...ofProcess(metrics, facts)]
  return [
    ...identity(facts),
    ...OF_QUEUE.map(([name, kind, doc, read]): Family => {
      const series: Series[] = labels
        ? [{ labels, value: facts.queues.reduce((sum, queue) => sum + read(queue), 0) }]
        : facts.queues.map((reading) => ({
            labels: { vhost: reading.vhost, queue: reading.queue },
            value: read(reading),
          }))
      return { name: `rabbitmq_queue_${name}`, kind, doc, series }
    }),
    ...rows.map(([name, kind, doc, value]) => ({
      ...{ name: `rabbitmq_${name}`, kind, doc },
      series: [{ labels: {}, value }],
    })),
    ...messageCounters(metrics),
    ...channelCounters(metrics),
  ]
}

function identity({ version, node, perObject }: RabbitmqFacts): Family[] {
  const common = { kind: 'gauge' as const }
  const nodeLabels = {
    ...{ rabbitmq_node: node, rabbitmq_cluster: 'sluice' },
    rabbitmq_endpoint: perObject ? 'per-object' : 'aggregated',
  }
  const build = {
    ...{ rabbitmq_version: '3.13.7', prometheus_plugin_version: '3.13.7' },
    ...{ prometheus_client_version: version, erlang_version: 'none' },
    ...{ product_name: 'Sluice', product_version: version },
  }
  return [
    {
      ...common,
      name: 'rabbitmq_identity_info',
      doc: 'RabbitMQ node & cluster identity info',
      series: [{ labels: { ...nodeLabels, rabbitmq_cluster_permanent_id: 'sluice' }, value: 1 }],
    },
    {
      ...common,
      name: 'rabbitmq_build_info',
      doc: 'RabbitMQ & Erlang/OTP version info',
      series: [{ labels: build, value: 1 }],
    },
  ]
}

function totals({ queues, queueCount }: RabbitmqFacts): Row[] {
  const consumers = queues.reduce((sum, queue) => sum + queue.consumers, 0)
  return [
    ['queues', 'gauge', 'Queues available', queueCount],
    ['consumers', 'gauge', 'Consumers currently connected', consumers],
    ['queues_declared_total', 'counter', 'Total number of queues declared', queueCount],
    ['queues_created_total', 'counter', 'Total number of queues created', queueCount],
    ['queues_deleted_total', 'counter', 'Total number of queues deleted', 0],
  ]
}

function ofProcess(metrics: Metrics, { redisMaxBytes }: RabbitmqFacts): Row[] {
  const opened = metrics.total('connectionsOpened')
  const connections = metrics.read('connections')
  const channelsOpened = metrics.total('channelsOpened')
  const channels = metrics.read('channels')
  const memoryHigh = metrics.read('memoryHigh')
  const max = Number.MAX_SAFE_INTEGER
  return [
    ['connections', 'gauge', 'Connections currently open', connections],
    ['connections_opened_total', 'counter', 'Total number of connections opened', opened],
    [
      'connections_closed_total',
      'counter',
      'Total number of connections closed or terminated',
      Math.max(0, opened - connections),
    ],
    ['channels', 'gauge', 'Channels currently open', channels],
    ['channels_opened_total', 'counter', 'Total number of channels opened', channelsOpened],
    [
      'channels_closed_total',
      'counter',
      'Total number of channels closed',
      Math.max(0, channelsOpened - channels),
    ],
    [
      'process_resident_memory_bytes',
      'gauge',
      'Memory used in bytes: what Redis has, which is where messages are',
      metrics.read('redisUsedBytes'),
    ],
    [
      'resident_memory_limit_bytes',
      'gauge',
      'Memory high watermark in bytes',
      redisMaxBytes > 0 ? redisMaxBytes : max,
    ],
    ['disk_space_available_bytes', 'gauge', 'Disk space available in bytes; not known here', max],
    ['disk_space_available_limit_bytes', 'gauge', 'Free disk space low watermark in bytes', 0],
    ['process_open_fds', 'gauge', 'Open file descriptors: connections', connections],
    ['process_max_fds', 'gauge', 'Open file descriptors limit', max],
    ['process_open_tcp_sockets', 'gauge', 'Open TCP sockets', connections],
    ['process_max_tcp_sockets', 'gauge', 'Open TCP sockets limit', max],
    ['alarms_memory_used_watermark', 'gauge', 'is 1 if the memory alarm is in effect', memoryHigh],
    [
      'alarms_free_disk_space_watermark',
      'gauge',
      'is 1 if the disk alarm is in effect',
      metrics.read('promisesBroken') > 0 ? 1 : 0,
    ],
    ['global_publishers', 'gauge', 'Publishers currently connected', channels],
    ['global_consumers', 'gauge', 'Consumers currently connected', channels],
  ]
}

/** The plugin's global counters; protocols are doors here. */
function messageCounters(metrics: Metrics): Family[] {
  const family = (name: string, doc: string, value: (door: 'amqp' | 'http') => number): Family => ({
    name: `rabbitmq_global_messages_${name}_total`,
    kind: 'counter',
    doc: `Total number of messages ${doc}`,
    series: (['amqp', 'http'] as const).map((door) => ({
      labels: { protocol: door === 'amqp' ? 'amqp091' : 'http' },
      value: value(door),
    })),
  })
  const published = (outcome: string) => (door: string) =>
    metrics.total('published', { door, outcome })
  const settled = (door: string) => metrics.total('settled', { door, outcome: 'settled' })
  const leased = (door: string) => metrics.total('leased', { door })
  const stored = (door: string) => published('stored')(door) + published('duplicate')(door)
  return [
    family('received', 'received from publishers', (door) => metrics.total('published', { door })),
    family('received_confirm', 'received from publishers expecting confirmations', stored),
    family('confirmed', 'confirmed to publishers', stored),
    family('routed', 'routed to queues or streams', stored),
    family(
      'unroutable_dropped',
      'published as non-mandatory into an exchange and dropped',
      (door) => published('unroutable')(door),
    ),
    family('unroutable_returned', 'published as mandatory and returned as unroutable', () => 0),
    family('delivered', 'delivered to consumers', leased),
    family('delivered_consume_manual_ack', 'delivered with manual acknowledgment', leased),
    family('delivered_consume_auto_ack', 'delivered with automatic acknowledgment', () => 0),
    family('delivered_get_manual_ack', 'delivered using basic.get', () => 0),
    family('delivered_get_auto_ack', 'delivered using basic.get and automatic acks', () => 0),
    family('get_empty', 'that basic.get did not find', () => 0),
    family('redelivered', 'redelivered to consumers', (door) =>
      metrics.total('redelivered', { door }),
    ),
    family('acknowledged', 'acknowledged by consumers', settled),
    family('dead_lettered', 'dead-lettered', (door) =>
      door === 'amqp' ? metrics.total('deadLettered') : 0,
    ),
  ]
}

/** What dashboards asked for before the global counters came, summed over channels. */
function channelCounters(metrics: Metrics): Family[] {
  const family = (name: string, doc: string, kind: 'counter' | 'gauge', value: number): Family => ({
    ...{ name: `rabbitmq_channel_${name}`, kind, doc },
    series: [{ labels: {}, value }],
  })
  const counter = (name: string, doc: string, value: number) =>
    family(`messages_${name}_total`, `Total number of messages ${doc}`, 'counter', value)
  const total = (key: 'published' | 'settled' | 'leased', outcome?: string) =>
    metrics.total(key, outcome === undefined ? {} : { outcome })
  const stored = total('published', 'stored') + total('published', 'duplicate')
  return [
    family('consumers', 'Consumers on a channel', 'gauge', metrics.read('channels')),
    family('messages_unconfirmed', 'Messages published but not yet confirmed', 'gauge', 0),
    counter('published', 'published into an exchange on a channel', total('published')),
    counter('confirmed', 'published and confirmed', stored),
    counter('unroutable_dropped', 'dropped as unroutable', total('published', 'unroutable')),
    counter('unroutable_returned', 'returned as unroutable', 0),
    counter('delivered_ack', 'delivered in manual acknowledgement mode', total('leased')),
    counter('delivered', 'delivered in automatic acknowledgement mode', 0),
    counter('get_ack', 'fetched with basic.get in manual acknowledgement mode', 0),
    counter('get', 'fetched with basic.get in automatic acknowledgement mode', 0),
    counter('redelivered', 'redelivered to consumers', metrics.total('redelivered')),
    counter('acked', 'acknowledged by consumers', total('settled', 'settled')),
    family('get_empty_total', 'Times basic.get fetched no message', 'counter', 0),
  ]
}
