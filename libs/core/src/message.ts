/**
 * What every part of the broker speaks of: a message on its way in.
 *
 * Properties are AMQP 0-9-1 basic-properties exactly as on the wire (property flags, then values;
 * specification 4.2.6.1), and neither they nor the body are decoded between an AMQP publisher and
 * an AMQP consumer. HTTP doors translate at the edge (libs/amqp/src/properties.ts).
 */
export interface Message {
  readonly exchange: string
  readonly routingKey: string
  /** Routed by these as well (AMQP's CC and BCC); a queue gets it once however many lead there. */
  readonly furtherKeys?: readonly string[]
  /**
   * '' = none; null = the routing key, if a queue of the vhost asks for keys. Only queues declared
   * with `x-ordering-key` look at it.
   */
  readonly orderingKey: string | null
  readonly persistent: boolean
  /** 0..255; queues without `x-max-priority` ignore it. */
  readonly priority: number
  /** Time to live in milliseconds; -1 = none. The shorter of this and the queue's counts. */
  readonly ttlMs: number
  /** Not deliverable before this many milliseconds after it is stored; 0 = at once. */
  readonly delayMs: number
  /** De-duplication id, at most 255 bytes; '' = none. */
  readonly dedupId: string
  /** Stands in for a missing de-duplication id in queues that were given a window. */
  readonly messageId?: string
  /** The least durability for this message; null = what its queue and the server say. */
  readonly durability: Durability | null
  /** Id of the data key that sealed it where it comes from: it is never stored in the clear. */
  readonly sealedBy?: number
  readonly properties: Buffer
  readonly body: Buffer
}

/**
 * How safe a message must be before its publish is confirmed: once Redis has it in memory, once
 * Redis has it on disk (`appendfsync always`), or once n replicas have it too (WAIT).
 */
export type Durability = 'memory' | 'fsync' | `replicas=${number}`

/** What became of one message at one queue, or of one publish as a whole. */
export type Appended =
  /** Stored, at the durability asked for. */
  | 'stored'
  /** A message with this de-duplication id was stored within the window; nothing was added. */
  | 'duplicate'
  /** Refused by a length limit (`x-overflow: reject-publish`), or by a waiting room. */
  | 'full'
  /** The queue was deleted. */
  | 'gone'
  /** Stored in memory, but the durability asked for was not reached; a retry may duplicate. */
  | 'not-durable'
  /** Redis did not answer in time; whether it is stored is unknown. A retry may duplicate. */
  | 'unavailable'
  /** Redis is over its memory mark; nothing was stored. */
  | 'memory-high'
  /** Redis cannot write to its disk; nothing was stored. */
  | 'disk-low'
  /** It is to be encrypted, and the key cannot be had; nothing was stored. */
  | 'no-key'

/** Why a message became a dead letter (RabbitMQ's words, which x-death carries). */
export type DeathReason = 'rejected' | 'expired' | 'maxlen' | 'delivery_limit'
