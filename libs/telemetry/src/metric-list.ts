/**
 * Every metric, declared once: docs/metrics.md renders from this list, and a label takes no value
 * that is not listed, so that the number of series is bounded. Names are Prometheus's: base units,
 * `_total` on counters.
 */

const DOORS = ['http', 'ingest', 'amqp', 'websocket', 'sse', 'push', 'broker'] as const
const OUTCOMES = [
  'stored',
  'duplicate',
  'unroutable',
  'full',
  'crowded',
  'gone',
  'not-durable',
  'unavailable',
  'memory-high',
  'disk-low',
  'no-key',
] as const
const SETTLEMENTS = [
  'settled',
  'retried',
  'released',
  'dead-lettered',
  'extended',
  'stale',
  'unavailable',
] as const
const REASONS = ['rejected', 'expired', 'maxlen', 'delivery_limit'] as const

/** Queues that have series of their own; more would swamp whoever stores them. */
export const QUEUES_MEASURED_MAX = 200
/** Queues that totals under RabbitMQ's names are summed over. */
export const QUEUES_SUMMED_MAX = 2_000

/** Seconds: from a publish to a long poll. */
const REQUEST_SECONDS = [
  0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30,
] as const
/** Seconds: from a message that is handed on at once to one that waited for a day. */
const MESSAGE_SECONDS = [
  0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 60, 300, 3_600, 86_400,
] as const
const REDIS_SECONDS = [0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5] as const
const BATCH_MESSAGES = [1, 2, 4, 8, 16, 32, 64, 128] as const

export interface Metric {
  readonly name: string
  readonly kind: 'counter' | 'gauge' | 'histogram'
  /** Label -> the values it takes; `any` where code bounds them otherwise. */
  readonly labels: Readonly<Record<string, readonly string[] | 'any'>>
  readonly doc: string
  /** Of a histogram. */
  readonly bounds?: readonly number[]
}

export const METRICS = {
  published: {
    name: 'sluice_messages_published_total',
    kind: 'counter',
    labels: { door: DOORS, outcome: OUTCOMES },
    doc: 'Publishes by what became of them. `stored` and `duplicate` were confirmed.',
  },
  publishedBytes: {
    name: 'sluice_messages_published_bytes_total',
    kind: 'counter',
    labels: { door: DOORS },
    doc: 'Bytes of the bodies taken in, whatever became of them.',
  },
  leased: {
    name: 'sluice_messages_leased_total',
    kind: 'counter',
    labels: { door: DOORS },
    doc: 'Deliveries handed to consumers, redeliveries included.',
  },
  redelivered: {
    name: 'sluice_messages_redelivered_total',
    kind: 'counter',
    labels: { door: ['http', 'amqp'] },
    doc: 'Of the deliveries, those that were not the first of their message.',
  },
  settled: {
    name: 'sluice_messages_settled_total',
    kind: 'counter',
    labels: { door: DOORS, outcome: SETTLEMENTS },
    doc: 'Settlements by outcome. `stale` ones came too late and changed nothing.',
  },
  deadLettered: {
    name: 'sluice_messages_dead_lettered_total',
    kind: 'counter',
    labels: { vhost: 'any', queue: 'any', reason: REASONS },
    doc: 'Messages moved to their dead letters by this process, by the queue where they died and the reason.',
  },
  unreadable: {
    name: 'sluice_messages_unreadable_total',
    kind: 'counter',
    labels: { vhost: 'any', queue: 'any', reason: ['shredded', 'forged'] },
    doc: 'Messages that this process ended since nobody can read them: their data key was shredded, or they are not what was stored.',
  },
  reclaimed: {
    name: 'sluice_messages_reclaimed_total',
    kind: 'counter',
    labels: {},
    doc: 'Messages taken back from processes that died, by this process.',
  },
  queueTime: {
    name: 'sluice_message_queue_time_seconds',
    kind: 'histogram',
    labels: { vhost: 'any', queue: 'any' },
    bounds: MESSAGE_SECONDS,
    doc: 'From the moment a message was stored until it was handed to a consumer, redeliveries included.',
  },
  deliveryTime: {
    name: 'sluice_delivery_duration_seconds',
    kind: 'histogram',
    labels: { vhost: 'any', queue: 'any' },
    bounds: MESSAGE_SECONDS,
    doc: 'From the moment a message was handed to a consumer until it was settled. HTTP leases are not in it.',
  },
  ackTimeouts: {
    name: 'sluice_amqp_ack_timeouts_total',
    kind: 'counter',
    labels: {},
    doc: 'AMQP deliveries that were not settled in time and went back to their queue.',
  },
  pushAttempts: {
    name: 'sluice_push_attempts_total',
    kind: 'counter',
    labels: { outcome: ['ack', 'retry', 'dead-letter'] },
    doc: 'Requests of push subscriptions by what became of their message.',
  },
  pushThrottled: {
    name: 'sluice_push_throttled_total',
    kind: 'counter',
    labels: { reason: ['rate', 'concurrency', 'window', 'breaker', 'retry-after'] },
    doc: 'Times that messages of a push subscription had to wait, by what kept them.',
  },
  pushInFlight: {
    name: 'sluice_push_in_flight',
    kind: 'gauge',
    labels: { vhost: 'any', subscription: 'any' },
    doc: 'Requests under way in this process, for the first 200 subscriptions it met.',
  },
  pushLimit: {
    name: 'sluice_push_limit',
    kind: 'gauge',
    labels: { vhost: 'any', subscription: 'any' },
    doc: 'Most requests that this process would have under way at present.',
  },
  pushBreaker: {
    name: 'sluice_push_breaker_open',
    kind: 'gauge',
    labels: { vhost: 'any', subscription: 'any' },
    doc: '1 while the endpoint is held to be down, as far as this process has seen.',
  },
  toleratedRedeclares: {
    name: 'sluice_tolerated_redeclares_total',
    kind: 'counter',
    labels: {},
    doc: 'Declarations that differed from the queue or exchange that is there, in vhosts that tolerate it.',
  },
  scheduled: {
    name: 'sluice_scheduled_total',
    kind: 'counter',
    labels: {
      vhost: 'any',
      outcome: ['published', 'missed', 'unroutable', 'exchange-missing', 'full', 'unreadable'],
    },
    doc: 'Ticks of schedules that were carried out here.',
  },
  reaperPasses: {
    name: 'sluice_reaper_passes_total',
    kind: 'counter',
    labels: {},
    doc: 'Rounds of the reaper in this process. Where no process counts, nobody reclaims, retries or moves dead letters.',
  },
  logLinesDropped: {
    name: 'sluice_log_lines_dropped_total',
    kind: 'counter',
    labels: {},
    doc: 'Log lines left out because they repeated.',
  },
  httpRequests: {
    name: 'sluice_http_request_duration_seconds',
    kind: 'histogram',
    labels: { route: 'any', status: ['1xx', '2xx', '3xx', '4xx', '5xx'] },
    bounds: REQUEST_SECONDS,
    doc: 'HTTP requests from their headers to the end of the answer. `route` is method and path as declared; long polls are in it.',
  },
  connections: {
    name: 'sluice_connections',
    kind: 'gauge',
    labels: { door: ['http', 'amqp', 'websocket'] },
    doc: 'Connections that clients have open to this process.',
  },
  connectionsOpened: {
    name: 'sluice_connections_opened_total',
    kind: 'counter',
    labels: { door: ['http', 'amqp', 'websocket'] },
    doc: 'Connections that clients opened to this process.',
  },
  channelsOpened: {
    name: 'sluice_amqp_channels_opened_total',
    kind: 'counter',
    labels: {},
    doc: 'AMQP channels opened in this process.',
  },
  channels: {
    name: 'sluice_amqp_channels',
    kind: 'gauge',
    labels: {},
    doc: 'AMQP channels open in this process.',
  },
  redisRoundTrip: {
    name: 'sluice_redis_round_trip_seconds',
    kind: 'histogram',
    labels: {},
    bounds: REDIS_SECONDS,
    doc: 'A PING once a second, behind what this process has under way.',
  },
  redisUp: {
    name: 'sluice_redis_up',
    kind: 'gauge',
    labels: {},
    doc: '1 while Redis answers this process.',
  },
  redisUsedBytes: {
    name: 'sluice_redis_used_memory_bytes',
    kind: 'gauge',
    labels: {},
    doc: 'Memory that Redis uses.',
  },
  redisMaxBytes: {
    name: 'sluice_redis_max_memory_bytes',
    kind: 'gauge',
    labels: {},
    doc: '`maxmemory` of Redis; 0 = no limit.',
  },
  memoryHigh: {
    name: 'sluice_memory_high',
    kind: 'gauge',
    labels: {},
    doc: '1 while publishes are refused for want of memory.',
  },
  batchMessages: {
    name: 'sluice_append_batch_messages',
    kind: 'histogram',
    labels: {},
    bounds: BATCH_MESSAGES,
    doc: 'Messages stored with one call of Redis.',
  },
  promisesBroken: {
    name: 'sluice_promises_broken',
    kind: 'gauge',
    labels: {},
    doc: 'Promises that cannot be kept at the moment, such as a durability; /readyz and the log name them.',
  },
  dataKeysLocked: {
    name: 'sluice_data_keys_locked',
    kind: 'gauge',
    labels: {},
    doc: 'Data keys that this process cannot use, since what wrapped them is not to be had: what they sealed waits.',
  },
  dataKeysRotated: {
    name: 'sluice_data_keys_rotated_total',
    kind: 'counter',
    labels: {},
    doc: 'Data keys that this process replaced for their age.',
  },
  wrappingKeyAway: {
    name: 'sluice_wrapping_key_away',
    kind: 'gauge',
    labels: {},
    doc: '1 while no data key can be made here that is needed: the settings have no key and something is encrypted, or the KMS fails.',
  },
  eventLoopDelay: {
    name: 'sluice_event_loop_delay_seconds',
    kind: 'gauge',
    labels: { percentile: ['50', '99', '100'] },
    doc: 'How late timers ran in the last ten seconds or more; high values mean that this process lacks CPU.',
  },
  residentBytes: {
    name: 'sluice_process_resident_memory_bytes',
    kind: 'gauge',
    labels: {},
    doc: 'Memory of this process.',
  },
  heapBytes: {
    name: 'sluice_process_heap_bytes',
    kind: 'gauge',
    labels: {},
    doc: 'Memory of this process that JavaScript objects take.',
  },
  queues: {
    name: 'sluice_queues',
    kind: 'gauge',
    labels: {},
    doc: 'Queues there are, measured or not.',
  },
  queueMessages: {
    name: 'sluice_queue_messages',
    kind: 'gauge',
    labels: { vhost: 'any', queue: 'any', state: ['ready', 'unacked', 'delayed'] },
    doc: 'Messages by queue and state.',
  },
  queueBytes: {
    name: 'sluice_queue_ready_bytes',
    kind: 'gauge',
    labels: { vhost: 'any', queue: 'any' },
    doc: 'Bytes of the messages that are ready.',
  },
  queueOldest: {
    name: 'sluice_queue_oldest_seconds',
    kind: 'gauge',
    labels: { vhost: 'any', queue: 'any' },
    doc: 'Age of the oldest message that is ready; 0 = none is.',
  },
  queueDrain: {
    name: 'sluice_queue_drain_seconds',
    kind: 'gauge',
    labels: { vhost: 'any', queue: 'any' },
    doc: 'When the queue is empty if it goes on as in the last half a minute; +Inf while it does not shrink.',
  },
  queueConsumers: {
    name: 'sluice_queue_consumers',
    kind: 'gauge',
    labels: { vhost: 'any', queue: 'any' },
    doc: 'Consumers attached, in all processes; HTTP leases are none.',
  },
  queuePublished: {
    name: 'sluice_queue_published_total',
    kind: 'counter',
    labels: { vhost: 'any', queue: 'any' },
    doc: 'Messages stored in the queue since it was declared.',
  },
  queueDelivered: {
    name: 'sluice_queue_delivered_total',
    kind: 'counter',
    labels: { vhost: 'any', queue: 'any' },
    doc: 'Messages taken from the queue for a consumer, redeliveries included.',
  },
  queueRedelivered: {
    name: 'sluice_queue_redelivered_total',
    kind: 'counter',
    labels: { vhost: 'any', queue: 'any' },
    doc: 'Deliveries that were not the first of their message.',
  },
  queueRemoved: {
    name: 'sluice_queue_removed_total',
    kind: 'counter',
    labels: {
      vhost: 'any',
      queue: 'any',
      how: ['acked', 'dead-lettered', 'expired', 'dropped', 'purged'],
    },
    doc: 'Messages that left the queue for good. `expired` ones may be dead-lettered too.',
  },
} as const satisfies Record<string, Metric>

export type MetricKey = keyof typeof METRICS
export type KeysOf<Kind extends Metric['kind']> = {
  [K in MetricKey]: (typeof METRICS)[K]['kind'] extends Kind ? K : never
}[MetricKey]
export type Labels<K extends MetricKey> = {
  readonly [L in keyof (typeof METRICS)[K]['labels']]: (typeof METRICS)[K]['labels'][L] extends readonly (infer V)[]
    ? V
    : string
}

/** The text of docs/metrics.md. */
export function renderMetrics(): string {
  const rows = Object.values<Metric>(METRICS).map(({ name, kind, labels, doc }) => {
    const names = Object.entries(labels).map(([label, values]) =>
      values === 'any' ? `\`${label}\`` : `\`${label}\`: ${values.join(', ')}`,
    )
    return `| \`${name}\` | ${kind} | ${names.join('; ')} | ${doc} |`
  })
  return `${INTRODUCTION}
| Name | Kind | Labels | Meaning |
| --- | --- | --- | --- |
${rows.join('\n')}

Generated from \`libs/telemetry/src/metric-list.ts\` by \`npm run generate\`.
`
}

const INTRODUCTION = `# Metrics

\`GET /metrics\` answers in Prometheus’s text format and needs a credential with the tag
\`monitoring\`. Each process counts what it did itself: sum over processes. What begins with
\`sluice_queue_\` or \`sluice_redis_\` comes from Redis and is the same whoever is asked: take the
maximum.

\`\`\`sh
curl -fsS -u "$AUTH" $SLUICE/metrics | grep '^sluice_redis_up 1'
\`\`\`

**Bounds.** The first ${QUEUES_MEASURED_MAX} queues by name have series of their own, vhost by
vhost. Histograms and counters that a process keeps by queue have the first
${QUEUES_MEASURED_MAX} that it met and that still exist; what comes after is summed up under
\`queue="(others)"\`. No label holds a routing key, a user, a connection or a message. With
\`SLUICE_QUEUE_HISTOGRAMS=false\` the histograms by queue are not kept.

**RabbitMQ’s names.** \`GET /metrics/rabbitmq\` answers with the names that the
\`rabbitmq_prometheus\` plugin has, summed over all queues as its \`/metrics\` does;
\`/metrics/rabbitmq/per-object\` has them by queue. Its Grafana dashboards and alerts work with it.
Totals of queues are told by one process of those that share a Redis, so that sums over processes
are right: scrape all of them. They are over the first ${QUEUES_SUMMED_MAX} queues; memory is
that of Redis, the disk and file descriptors are not known and never run out.

\`\`\`sh
curl -fsS -u "$AUTH" $SLUICE/metrics/rabbitmq | grep '^rabbitmq_queues'
\`\`\`

**OTLP.** With \`OTEL_EXPORTER_OTLP_ENDPOINT\` and \`SLUICE_OTLP_METRICS_MS\` set, all of them are
also sent there, each so often, cumulative. What to be woken by:
[alerts](operating.md#alerts).
`
