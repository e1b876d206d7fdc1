/**
 * What an ingest is: the document of kind `ingest`, its defaults and its bounds.
 *
 * Parsed when it is put and again when it is read, so nothing behind this file meets a value out of
 * bounds.
 */
import { limits } from '@sluice/core'
import { CONNECTION_HEADERS } from '@sluice/topology'
import { z } from 'zod'

/** Part of a path, so of characters that no client encodes. Unique in the whole broker. */
export const INGEST_NAME = /^[A-Za-z0-9][A-Za-z0-9._~-]{0,127}$/

const HEADERS_MAX = 100
const WAITING_MAX = 1_000_000_000
const WEIGHTS_MAX = 1_000
const WEIGHT_MIN = 0.001
const WEIGHT_MAX = 1_000
const WEEK_MS = 7 * 24 * 3_600_000
const KEPT_BYTES_MAX = 1024 * 1024

/** RFC 9110, 5.6.2. */
const HEADER_NAME = /^[!#$%&'*+.^`|~\w-]{1,256}$/

/** `Prefer` is for us, what proxies are told is not for who is behind them. */
export const NEVER_KEPT: ReadonlySet<string> = new Set([
  ...CONNECTION_HEADERS,
  'prefer',
  'proxy-authenticate',
  'proxy-authorization',
  'proxy-connection',
])

/** Kept only where they are listed. */
export const CREDENTIALS: ReadonlySet<string> = new Set(['authorization', 'cookie'])

const headerName = z
  .string()
  .regex(HEADER_NAME, 'is no name of a header')
  .refine((name) => !NEVER_KEPT.has(name.toLowerCase()), {
    error: 'is about the connection and is not kept',
  })

const Fairness = z.strictObject({
  by: z.union([z.enum(['address', 'credential']), z.strictObject({ header: headerName })]).meta({
    description:
      'What tells clients apart: the address (of IPv6 its first 64 bits), the credential’s user, or a ' +
      'header. Requests without it are one client.',
  }),
  weights: z
    .record(z.string().min(1).max(1_024), z.number().min(WEIGHT_MIN).max(WEIGHT_MAX))
    .refine((weights) => Object.keys(weights).length <= WEIGHTS_MAX, {
      error: `has at most ${WEIGHTS_MAX} clients`,
    })
    .default({})
    .meta({ description: 'Client -> its share beside others; 1 for those not named.' }),
})

const Admission = z.strictObject({
  waitingMax: z.int().min(1).max(WAITING_MAX).default(100_000).meta({
    description: 'Most messages in the queue, those held and delayed included.',
  }),
  oldestMs: z.int().min(0).max(WEEK_MS).default(0).meta({
    description:
      'Nothing more is taken while the next message to go has waited for so long. 0 = ever.',
  }),
})

const KeepAnswers = z.strictObject({
  retentionMs: z.int().min(1_000).max(WEEK_MS).default(600_000).meta({
    description: 'How long the outcome and the answer can be asked for.',
  }),
  bytesMax: z.int().min(0).max(KEPT_BYTES_MAX).default(65_536).meta({
    description: 'How much of an answer’s body is kept.',
  }),
})

export const IngestBody = z
  .strictObject({
    queue: z.string().min(1).max(limits.NAME_BYTES_MAX).optional().meta({
      description:
        'Where requests wait; declared when it is not there. Default: named as the ingest.',
    }),
    open: z.boolean().default(false).meta({
      description: 'Anyone may send, without a credential, and read the outcome by its id.',
    }),
    headers: z
      .array(z.union([z.literal('*'), headerName]))
      .max(HEADERS_MAX)
      .default(['*'])
      .meta({
        description:
          'Those kept of a request. `*`: all but those about the connection, and but Authorization and ' +
          'Cookie, which are kept only where they are named.',
      }),
    bodyBytesMax: z
      .int()
      .min(0)
      .max(limits.MESSAGE_BYTES_CAP)
      .default(1024 * 1024),
    admission: Admission.prefault({}),
    fairness: Fairness.optional().meta({
      description:
        'Clients wait by turns, and none takes the whole waiting room. Default: one line.',
    }),
    keepAnswers: KeepAnswers.prefault({}),
    idempotencyWindowMs: z
      .int()
      .min(1_000)
      .max(WEEK_MS)
      .default(24 * 3_600_000)
      .meta({
        description:
          'A request with the Idempotency-Key of another is not stored again for so long.',
      }),
  })
  .superRefine(({ open, headers, fairness }, context) => {
    const names = headers.map((name) => name.toLowerCase())
    if (!open && names.includes('authorization')) {
      const message = 'holds the credential of this broker, unless the ingest is open'
      context.addIssue({ code: 'custom', path: ['headers'], message })
    }
    if (open && fairness?.by === 'credential') {
      const message = 'is not asked for: the ingest is open'
      context.addIssue({ code: 'custom', path: ['fairness', 'by'], message })
    }
  })
export type IngestBody = z.output<typeof IngestBody>

/** As it is kept: with the name of its queue. */
export type Ingest = IngestBody & { readonly queue: string }

/** What is shown of it. */
export const ShownIngest = z
  .object({
    ...IngestBody.shape,
    name: z.string(),
    queue: z.string(),
    url: z.string().meta({ description: 'Where requests go: everything below it.' }),
  })
  .meta({ id: 'Ingest' })

/** A stored document; undefined when a newer version of the broker wrote what this cannot read. */
export function readIngest(value: unknown, name: string): Ingest | undefined {
  const parsed = IngestBody.safeParse(value)
  return parsed.success ? { ...parsed.data, queue: parsed.data.queue ?? name } : undefined
}
