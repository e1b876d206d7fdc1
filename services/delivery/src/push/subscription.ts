/**
 * What a push subscription is: the document of kind `subscription`, its defaults and its bounds.
 *
 * Parsed when it is put and again when it is read, so nothing behind this file meets a value out of
 * bounds. Secrets lie in the document as they were given; http-subscriptions.ts masks them.
 */
import { X509Certificate } from 'node:crypto'
import { limits } from '@sluice/core'
import { SIGNING_SCHEMES, signingKeyError } from '@sluice/security'
import { CONNECTION_HEADERS } from '@sluice/topology'
import { z } from 'zod'

/** Longer URLs are refused by common servers. */
const URL_LENGTH_MAX = 2_048
/** Configured headers, and the bytes of one value: they travel with every request. */
const HEADERS_MAX = 50
const HEADER_BYTES_MAX = 4_096
/** Certificates with their chain, or a bundle of some authorities. */
const PEM_LENGTH_MAX = 64 * 1024
/** A whole exchange: endpoints that need longer should answer 202. */
const TIMEOUT_MS_MIN = 100
const TIMEOUT_MS_MAX = 300_000
const REDIRECTS_MAX = 5
const PER_SECOND_MIN = 0.001
const PER_SECOND_MAX = 100_000
const BURST_MAX = 100_000
const CONCURRENCY_MAX = 1_000
const WINDOWS_MAX = 50
const RAMP_UP_MS_MAX = 3_600_000
const STATUSES_MAX = 100
const BREAKER_FAILURES_MAX = 10_000
const PROBE_MS_MIN = 100
const PROBE_MS_MAX = 3_600_000
/** One to sign with, and those that receivers may not have exchanged yet. */
const KEYS_MAX = 5
/** Stands for a secret: the one that is kept, when it comes back in a PUT. */
export const MASK = '***'

/** Said by the connection or by the broker for every request, so not by a subscription. */
const RESERVED_HEADERS = new Set([...CONNECTION_HEADERS, 'traceparent', 'tracestate'])
const RESERVED_PREFIX = /^(?:proxy|sluice|webhook|ce)-/
/** RFC 9110, 5.6.2. */
const TOKEN = /^[!#$%&'*+.^_`|~\w-]{1,256}$/

const headerValue = z
  .string()
  // biome-ignore lint/suspicious/noControlCharactersInRegex: it refuses them
  .regex(/^[^\x00-\x08\x0a-\x1f\x7f]*$/, 'holds a control character')
  .refine((value) => Buffer.byteLength(value) <= HEADER_BYTES_MAX, {
    error: `has at most ${HEADER_BYTES_MAX} bytes`,
  })
  .refine((value) => value.isWellFormed(), { error: 'is no Unicode text' })

const Headers = z
  .record(z.string(), headerValue)
  .superRefine((headers, context) => {
    const seen = new Set<string>()
    for (const name of Object.keys(headers)) {
      const wrong = headerNameError(name, seen)
      if (wrong) context.addIssue({ code: 'custom', path: [name.slice(0, 100)], message: wrong })
      seen.add(name.toLowerCase())
    }
    if (seen.size > HEADERS_MAX) {
      context.addIssue({ code: 'custom', message: `has at most ${HEADERS_MAX} headers` })
    }
  })
  .default({})
  .meta({
    description:
      'Sent with every request. Values are write-only: they are shown as ***, and *** in a PUT ' +
      'keeps the value of that name. Content-Type is for messages that have none.',
  })

function headerNameError(name: string, seen: ReadonlySet<string>): string | undefined {
  if (!TOKEN.test(name)) return 'is no name of a header'
  const lower = name.toLowerCase()
  if (seen.has(lower)) return 'is given twice'
  return RESERVED_HEADERS.has(lower) || RESERVED_PREFIX.test(lower)
    ? 'is set by the broker'
    : undefined
}

const pem = z.string().min(1).max(PEM_LENGTH_MAX)
const certificate = pem.refine(isCertificate, { error: 'holds no certificate in PEM' })

function isCertificate(text: string): boolean {
  try {
    new X509Certificate(text)
    return true
  } catch {
    return false
  }
}

const Tls = z
  .strictObject({
    ca: certificate.optional().meta({
      description: 'PEM. Authorities that are trusted, instead of those that Node knows.',
    }),
    cert: certificate
      .optional()
      .meta({ description: 'PEM. The client’s certificate, with chain.' }),
    key: pem.optional().meta({ description: 'PEM. Its private key; write-only.' }),
    rejectUnauthorized: z.boolean().default(true).meta({
      description: 'false: a certificate that proves nothing will do. For tests only.',
    }),
    servername: z.string().min(1).max(253).optional().meta({
      description: 'The name that the certificate must have. Default: the host of the URL.',
    }),
  })
  .refine(({ cert, key }) => (cert === undefined) === (key === undefined), {
    error: 'cert and key come together',
  })

const METHODS = ['POST', 'PUT', 'PATCH', 'DELETE', 'GET'] as const

const Endpoint = z.strictObject({
  url: z.string().max(URL_LENGTH_MAX).superRefine(checkUrl).meta({
    description: 'http or https. Credentials belong into a header, where they are not shown.',
  }),
  method: z.enum(METHODS).default('POST').meta({ description: 'GET sends no body.' }),
  headers: Headers,
  timeoutMs: z.int().min(TIMEOUT_MS_MIN).max(TIMEOUT_MS_MAX).default(30_000).meta({
    description: 'For the whole exchange, from the look-up of the name to the end of the answer.',
  }),
  tls: Tls.optional(),
  redirects: z.int().min(0).max(REDIRECTS_MAX).default(0).meta({
    description: 'How many are followed. 0: a redirect is an answer like others.',
  }),
})

function checkUrl(text: string, context: z.RefinementCtx): void {
  const refuse = (message: string) => context.addIssue({ code: 'custom', message })
  const url = URL.parse(text)
  if (url === null) refuse('is no URL')
  else if (!/^https?:$/.test(url.protocol)) refuse('is a URL of http or https')
  else if (url.username !== '' || url.password !== '') {
    refuse('holds credentials: send them in a header, whose value is not shown')
  } else if (url.hash !== '') refuse('has a fragment, which is never sent')
}

const TIME_OF_DAY = /^(?:[01]\d|2[0-3]):[0-5]\d$|^24:00$/
const DAYS = ['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun'] as const

const Window = z.strictObject({
  days: z
    .array(z.enum(DAYS))
    .min(1)
    .max(DAYS.length)
    .default([...DAYS])
    .meta({ description: 'Those on which it opens.' }),
  from: z.string().regex(TIME_OF_DAY, 'is a time like 08:30'),
  to: z.string().regex(TIME_OF_DAY, 'is a time like 17:00, or 24:00').meta({
    description: 'Not included. Before `from`: on the next day.',
  }),
  timeZone: z
    .string()
    .max(64)
    .refine(isTimeZone, { error: 'is a name like Europe/Berlin' })
    .default('UTC'),
})

function isTimeZone(name: string): boolean {
  try {
    new Intl.DateTimeFormat('en', { timeZone: name })
    return true
  } catch {
    return false
  }
}

const Shape = z.strictObject({
  perSecond: z.number().min(PER_SECOND_MIN).max(PER_SECOND_MAX).optional().meta({
    description: 'Most requests a second, over all processes. Default: no limit.',
  }),
  burst: z
    .int()
    .min(1)
    .max(BURST_MAX)
    .optional()
    .meta({
      description:
        'How many may go at once after a pause: in any time t at most perSecond x t + burst. Default: ' +
        'what perSecond allows in a tenth of a second, at least 1.',
    }),
  concurrencyMax: z.int().min(1).max(CONCURRENCY_MAX).default(32).meta({
    description: 'Most requests under way, over all processes.',
  }),
  windows: z.array(Window).max(WINDOWS_MAX).default([]).meta({
    description: 'When requests may start; none = always.',
  }),
  rampUpMs: z.int().min(0).max(RAMP_UP_MS_MAX).default(10_000).meta({
    description: 'After an outage the rate grows to perSecond over this time.',
  }),
})

export const VERDICTS = ['ack', 'retry', 'dead-letter'] as const
/** What becomes of a message after an attempt. */
export type Verdict = (typeof VERDICTS)[number]

const OnStatus = z
  .record(z.string().regex(/^[2-5]\d\d$/, 'is a status from 200 to 599'), z.enum(VERDICTS))
  .refine((map) => Object.keys(map).length <= STATUSES_MAX, {
    error: `has at most ${STATUSES_MAX} statuses`,
  })
  .default({})
  .meta({
    description:
      'What becomes of a message by the status of its answer, where that is not as usual: 2xx acks; ' +
      '3xx, 408, 425, 429 and 5xx retry; other 4xx dead-letter.',
  })

const Breaker = z.strictObject({
  failures: z.int().min(1).max(BREAKER_FAILURES_MAX).default(10).meta({
    description: 'After so many attempts in a row that found it down, requests stop.',
  }),
  probeMs: z.int().min(PROBE_MS_MIN).max(PROBE_MS_MAX).default(5_000).meta({
    description: 'How often it is then tried with one message; the first times sooner.',
  }),
})

const Signing = z
  .strictObject({
    scheme: z.enum(SIGNING_SCHEMES),
    keys: z
      .array(z.string().max(200))
      .min(1)
      .max(KEYS_MAX)
      .meta({
        description:
          'hmac: whsec_ and 24 to 64 bytes in base64; ed25519: whsk_ and a private key of 32 or 64. ' +
          'Each signs every request, so a key is exchanged by having both for a while. Write-only.',
      }),
  })
  .superRefine(({ scheme, keys }, context) => {
    for (const [index, key] of keys.entries()) {
      const message = key.startsWith(MASK) ? undefined : signingKeyError(scheme, key)
      if (message) context.addIssue({ code: 'custom', path: ['keys', index], message })
    }
  })
  .meta({ description: 'Standard Webhooks: webhook-id, webhook-timestamp, webhook-signature.' })

const BODIES = ['raw', 'cloudevents-binary', 'cloudevents-structured'] as const

export const Subscription = z.strictObject({
  queue: z.string().min(1).max(limits.NAME_BYTES_MAX),
  paused: z.boolean().default(false),
  endpoint: Endpoint,
  body: z.enum(BODIES).default('raw').meta({
    description: 'The body as it was published, or the message as a CloudEvent.',
  }),
  replay: z
    .boolean()
    .default(false)
    .meta({
      description:
        'Requests that an ingest took in go to the endpoint as they came: method, headers and body, and ' +
        'their path and query behind those of the URL. Other messages are pushed as usual.',
    }),
  shape: Shape.prefault({}),
  onStatus: OnStatus,
  adaptive: z.boolean().default(true).meta({
    description: 'Requests under way grow while latency holds, and shrink when it does not.',
  }),
  breaker: Breaker.prefault({}),
  signing: Signing.optional(),
})
export type Subscription = z.output<typeof Subscription>

/**
 * What an attempt says about its endpoint, beside what it means for its message: it is busy
 * (429, 503, 504, a timeout), or not there (no connection, no TLS, 502). A status that may be about
 * the message, as 500 may, is `none`.
 */
export type Pressure = 'none' | 'overload' | 'down'

/** One request for one message, as it is kept with the message. */
export interface Attempt {
  /** When it began, ms since 1970 by the clock of its process. */
  readonly timeMs: number
  readonly durationMs: number
  /** Absent: there was no answer. */
  readonly status?: number
  /** What went wrong beside, or instead of, the status. Names no secret. */
  readonly error?: string
  /** The first 1 KiB of the answer's body, as text. */
  readonly answer: string
  /** What the endpoint asked for in Retry-After. */
  readonly retryAfterMs?: number
  readonly verdict: Verdict
  readonly pressure: Pressure
}
