/** Messages as a program has them, and as they travel. */

import { fromBase64, toBase64 } from './bytes.ts'
import { asObject } from './errors.ts'

/** A body: bytes and text go as they are, everything else as JSON. */
export type Body = unknown

/** A value of a message's own headers. */
export type HeaderValue =
  | string
  | number
  | boolean
  | null
  | readonly HeaderValue[]
  | { readonly [name: string]: HeaderValue }

/** Where a message goes: to one queue, or to an exchange under a routing key. */
export type Target =
  | { readonly queue: string }
  | { readonly exchange: string; readonly routingKey?: string }

/** What a publisher may say about a message, beside its body. */
export interface MessageOptions {
  /** Stored once under this key within the window of each queue. Default: a random one. */
  readonly idempotencyKey?: string
  /** The message's own headers. */
  readonly headers?: Readonly<Record<string, HeaderValue>>
  /** Media type of the body. Default: by what the body is. */
  readonly contentType?: string
  /** Kept as it is; the body is not encoded by it. */
  readonly contentEncoding?: string
  /** Queues with `x-ordering-key` keep the order of a key. */
  readonly orderingKey?: string
  /** 0..255; queues without `x-max-priority` ignore it. */
  readonly priority?: number
  /** Time to live, ms. */
  readonly ttlMs?: number
  /** Not delivered before that many ms. */
  readonly delayMs?: number
  /** Not delivered before that time. */
  readonly deliverAt?: Date
  /** Fail with `unroutable` when no queue is reached. Default: true for a queue, else false. */
  readonly mandatory?: boolean
  /** The least durability: memory, fsync, replicas=n. Default: what the queue and server say. */
  readonly durability?: 'memory' | 'fsync' | `replicas=${number}`
  /** AMQP's persistent delivery mode. Default true. */
  readonly persistent?: boolean
  readonly messageId?: string
  readonly correlationId?: string
  readonly replyTo?: string
  /** The kind of message, for its consumers. */
  readonly type?: string
  readonly appId?: string
  /** Seconds since 1970. */
  readonly timestamp?: number
}

/** AMQP properties of a delivered message. */
export interface Properties {
  readonly contentType?: string
  readonly contentEncoding?: string
  readonly deliveryMode?: number
  readonly priority?: number
  readonly correlationId?: string
  readonly replyTo?: string
  readonly expiration?: string
  readonly messageId?: string
  readonly timestamp?: number
  readonly type?: string
  readonly userId?: string
  readonly appId?: string
}

/** The exchange and routing key of a target. */
export function placeOf(target: Target): { exchange: string; routingKey: string } {
  if ('queue' in target) return { exchange: '', routingKey: target.queue }
  return { exchange: target.exchange, routingKey: target.routingKey ?? '' }
}

/** The fields of a message as the broker takes them: in a batch, and in a WebSocket frame. */
export function messageFields(
  target: Target,
  body: Body,
  { deliverAt, ...options }: MessageOptions,
  trace: { traceparent?: string; tracestate?: string } | undefined,
): Record<string, unknown> {
  const traced = trace?.traceparent !== undefined && { ...trace }
  const headers = { ...traced, ...options.headers }
  return {
    mandatory: 'queue' in target,
    routingKey: placeOf(target).routingKey,
    idempotencyKey: crypto.randomUUID(),
    ...encodeBody(body),
    ...options,
    ...(deliverAt !== undefined && { deliverAt: deliverAt.toISOString() }),
    ...(Object.keys(headers).length > 0 && { headers }),
  }
}

/** undefined: it is text, or a value for JSON. */
export function bytesOf(body: Body): Uint8Array | undefined {
  if (body instanceof ArrayBuffer) return new Uint8Array(body)
  return body instanceof Uint8Array ? body : undefined
}

function encodeBody(body: Body): { contentType: string; body?: string; bodyBase64?: string } {
  if (typeof body === 'string') return { body, contentType: 'text/plain; charset=utf-8' }
  const bytes = bytesOf(body)
  if (bytes) return { bodyBase64: toBase64(bytes), contentType: 'application/octet-stream' }
  const text = JSON.stringify(body)
  if (text === undefined) throw new TypeError('A body is bytes, text, or a value that JSON has.')
  return { body: text, contentType: 'application/json' }
}

const JSON_TYPE = /^[^;]*[/+]json\s*(?:;|$)/i

/** A delivered body: JSON parsed, text as a string, everything else as bytes. */
export function decodeBody(fields: unknown): unknown {
  const { body, bodyBase64, properties } = asObject(fields)
  if (typeof bodyBase64 === 'string') return fromBase64(bodyBase64)
  const { contentType } = asObject(properties)
  if (typeof contentType === 'string' && JSON_TYPE.test(contentType)) {
    try {
      return JSON.parse(String(body))
    } catch {
      return body // it only says that it is JSON
    }
  }
  return body
}
