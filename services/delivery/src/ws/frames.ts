/**
 * Frames of the WebSocket door, subprotocol `sluice.v1`: one JSON object a text message, in both
 * directions, with its kind in `type`. docs/websocket.md lists them all; bodies are text, JSON or
 * base64, as everywhere in the HTTP API.
 */
import { BrokerError, limits } from '@sluice/core'
import type { Problem } from '@sluice/server'
import { z } from 'zod'
import { Encoding } from '../message-json.ts'

export const SUBPROTOCOL = 'sluice.v1'

/** Comes back with the answer; the client chooses it. */
const id = z.union([z.string().max(64), z.int()]).optional()
const consumer = z.string().min(1).max(limits.NAME_BYTES_MAX)
const credit = z.int().min(0).max(limits.WEBSOCKET_CREDIT_MAX)
const deliveries = z.array(z.int().min(1)).min(1).max(limits.WEBSOCKET_CREDIT_MAX)
const reason = z.string().max(limits.REASON_BYTES_MAX)

const Open = z.strictObject({
  type: z.literal('open'),
  vhost: z.string().default('/'),
  /** As an Authorization header: browsers cannot set one. */
  authorization: z.string().max(8_192).optional(),
})
const Consume = z.strictObject({
  type: z.literal('consume'),
  id,
  consumer,
  queue: z.string(),
  credit: credit.default(100),
  priority: z
    .int()
    .min(-(2 ** 31))
    .max(2 ** 31 - 1)
    .default(0),
  exclusive: z.boolean().default(false),
  autoAck: z.boolean().default(false),
  encoding: Encoding,
  format: z.enum(['message', 'event']).default('message'),
})
const Credit = z.strictObject({ type: z.literal('credit'), consumer, credit })
const Cancel = z.strictObject({ type: z.literal('cancel'), id, consumer })
const Ping = z.strictObject({ type: z.literal('ping'), id })

const settle = { type: z.literal('settle'), deliveries }
const Settle = z.discriminatedUnion('outcome', [
  z.strictObject({ ...settle, outcome: z.literal('ack') }),
  z.strictObject({
    ...settle,
    outcome: z.literal('retry'),
    delayMs: z.int().min(0).max(limits.DURATION_MS_MAX).optional(),
    reason: reason.default(''),
  }),
  z.strictObject({ ...settle, outcome: z.literal('release') }),
  z.strictObject({ ...settle, outcome: z.literal('dead-letter'), reason: reason.default('') }),
  z.strictObject({ ...settle, outcome: z.literal('extend') }),
])

const FRAMES = { open: Open, consume: Consume, credit: Credit, cancel: Cancel, ping: Ping }

export type OpenFrame = z.output<typeof Open>
export type ConsumeFrame = z.output<typeof Consume>
export type SettleFrame = z.output<typeof Settle>
export type FrameId = z.output<typeof id>

/** What is published is read by its own reader (@sluice/server), so it stays as it came. */
export interface PublishFrame {
  readonly type: 'publish'
  readonly id: FrameId
  /** '' or amq.default is the default exchange. */
  readonly exchange: string
  /** A CloudEvent in its JSON form, instead of a message's fields. */
  readonly event: unknown
  readonly message: Readonly<Record<string, unknown>>
}

export type ClientFrame =
  | OpenFrame
  | ConsumeFrame
  | SettleFrame
  | PublishFrame
  | z.output<typeof Credit>
  | z.output<typeof Cancel>
  | z.output<typeof Ping>

export type BrokerFrame =
  | {
      type: 'opened'
      heartbeatMs: number
      /** A delivery that is neither settled nor extended for this long goes back; 0 = never. */
      ackTimeoutMs: number
      creditMax: number
      messageBytesMax: number
    }
  | { type: 'consuming'; id: FrameId; consumer: string }
  | { type: 'deliver'; consumer: string; delivery: number; [field: string]: unknown }
  | { type: 'cancelled'; id?: FrameId; consumer: string; problem?: Problem }
  | { type: 'published'; id: FrameId; routed: boolean; duplicate: boolean; queues: string[] }
  | { type: 'error'; id?: FrameId; problem: Problem }
  | { type: 'draining' }
  | { type: 'pong'; id: FrameId }

/** The id of a frame that does not fit, so that its refusal finds who waits. */
export function idOf(frame: unknown): FrameId {
  const parsed = id.safeParse((frame as { id?: unknown } | null)?.id)
  return parsed.success ? parsed.data : undefined
}

/** JSON of a text message, or undefined when it is no object with a type. */
export function parseFrame(text: string): { type: string } | undefined {
  try {
    const value: unknown = JSON.parse(text)
    const type = (value as { type?: unknown } | null)?.type
    return typeof type === 'string' ? (value as { type: string }) : undefined
  } catch {
    return undefined
  }
}

/** Throws invalid_request, or ZodError for fields that do not fit. */
export function readFrame(frame: { type: string }): ClientFrame {
  if (frame.type === 'settle') return Settle.parse(frame)
  if (frame.type === 'publish') return readPublish(frame)
  const schema = Object.hasOwn(FRAMES, frame.type) && FRAMES[frame.type as keyof typeof FRAMES]
  if (schema) return schema.parse(frame)
  throw new BrokerError('invalid_request', `There is no frame ${frame.type.slice(0, 64)}.`)
}

function readPublish(frame: object): PublishFrame {
  const { type: _, id: given, exchange = '', event, ...message } = frame as Record<string, unknown>
  if (typeof exchange !== 'string') {
    throw new BrokerError('invalid_request', 'exchange is a string.')
  }
  return { type: 'publish', id: id.parse(given), exchange, event, message }
}
