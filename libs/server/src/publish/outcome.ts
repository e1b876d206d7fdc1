/** What a publisher is told: outcomes of a publish as answers and as refusals. */
import { BrokerError, DEFAULT_EXCHANGE, type Durability } from '@sluice/core'
import type { Count } from '@sluice/telemetry'
import type { Published, QueueEntry } from '@sluice/topology'
import type { Deps } from '../deps.ts'
import { noExchange } from '../not-found.ts'

/** What a publish asked for. */
interface Asked {
  readonly exchange: string
  /** Of a mandatory message: undefined where reaching no queue is no failure. */
  readonly routingKey: string | undefined
}

/** Why a message was not stored; undefined when it was, or when nothing wanted it. */
export function refusalOf(
  outcome: Published,
  { exchange, routingKey }: Asked,
): BrokerError | undefined {
  switch (outcome) {
    case 'stored':
    case 'duplicate':
      return undefined
    case 'unroutable':
      if (routingKey === undefined) return undefined
      return new BrokerError(
        'unroutable',
        exchange === DEFAULT_EXCHANGE
          ? `There is no queue ${JSON.stringify(routingKey)}.`
          : 'No queue is bound with this routing key.',
      )
    case 'exchange-missing':
      return noExchange(exchange)
    case 'full':
      return new BrokerError('queue_full', 'A queue is full and refuses more.')
    case 'memory-high':
      return new BrokerError('memory_high', 'Redis is short of memory; consume, then try again.')
    case 'disk-low':
      return new BrokerError('store_unavailable', 'Redis cannot write to its disk; try again.')
    case 'not-durable':
      return new BrokerError(
        'durability_unavailable',
        'The durability asked for cannot be had at the moment. The message may be stored.',
      )
    case 'no-key':
      return new BrokerError(
        'encryption_unavailable',
        'The key that encrypts a queue cannot be had at the moment; the message is not stored there.',
      )
    case 'unavailable':
      return new BrokerError(
        'store_unavailable',
        'Redis does not answer. The message may be stored: try again, with the same Idempotency-Key if it has one.',
      )
  }
}

/** The counts of a door's publishes, looked up once. */
export type PublishCounts = Readonly<Record<Published, Count>> & { readonly bytes: Count }

export function publishCounts(
  { metrics }: Pick<Deps, 'metrics'>,
  door: 'http' | 'amqp' | 'websocket',
): PublishCounts {
  const count = (outcome: Exclude<Published, 'exchange-missing'>) =>
    metrics.count('published', { door, outcome })
  return {
    stored: count('stored'),
    duplicate: count('duplicate'),
    unroutable: count('unroutable'),
    'exchange-missing': count('unroutable'),
    full: count('full'),
    'memory-high': count('memory-high'),
    'disk-low': count('disk-low'),
    'not-durable': count('not-durable'),
    'no-key': count('no-key'),
    unavailable: count('unavailable'),
    bytes: metrics.count('publishedBytes', { door }),
  }
}

function rank(durability: Durability): number {
  if (durability === 'memory') return 0
  return durability === 'fsync' ? 1 : 1 + Number(durability.slice('replicas='.length))
}

const weaker = (a: Durability, b: Durability): Durability => (rank(a) <= rank(b) ? a : b)
export const stronger = (a: Durability, b: Durability): Durability => (rank(a) >= rank(b) ? a : b)

interface Reached {
  /** JSON of the queues' names. */
  readonly names: string
  /** What the least durable of them gave. */
  readonly durability: Durability
}

const reached = new WeakMap<readonly QueueEntry[], Reached>()

/** Routes are shared between publishes: what is said about one is worked out once. */
export function describeReached(queues: readonly QueueEntry[]): Reached {
  let known = reached.get(queues)
  if (known === undefined) {
    known = {
      names: JSON.stringify(queues.map(({ definition }) => definition.name)),
      durability: queues
        .map(({ settings }) => settings.durability)
        .reduce(weaker, queues[0]?.settings.durability ?? 'memory'),
    }
    reached.set(queues, known)
  }
  return known
}
