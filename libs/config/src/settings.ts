/**
 * Every setting, declared once.
 *
 * From this list come the typed Config, docs/configuration.md and the env block of the Helm values
 * (render.ts; `npm run generate`). Durations are milliseconds and sizes are bytes, as the names
 * say. What belongs to one queue (its TTL, limits, retries) is an argument or policy of that queue,
 * never a setting.
 */
import { isIP } from 'node:net'
import { type Durability, limits, parseRedisUrl } from '@sluice/core'
import { z } from 'zod'

export interface Setting {
  readonly env: string
  readonly schema: z.ZodType
  readonly doc: string
  /** Printed as `***` in logs and rendered as a Secret reference in Helm. */
  readonly secret?: true
  /** What a pod needs where that is not the default. */
  readonly helm?: string
}

const int = (min: number, max: number, fallback: number) =>
  z.coerce.number<string>().int().min(min).max(max).default(fallback)

export const SETTINGS = {
  redisUrl: {
    env: 'REDIS_URL',
    schema: z
      .string('is not set. Give the Redis that keeps everything, e.g. redis://127.0.0.1:6379')
      .superRefine((url, context) => {
        try {
          parseRedisUrl(url)
        } catch (error) {
          context.addIssue({ code: 'custom', message: (error as Error).message })
        }
      }),
    doc: 'The Redis (7.0 or newer, or Valkey) that keeps messages and topology. `npm start` finds or starts one when this is not set. `redis+sentinel://host:26379,host:26379/mymaster` goes through sentinels (name all of them), `redis+cluster://host:6379,host:6379` to a cluster; `rediss` instead of `redis` speaks TLS.',
    secret: true,
  },
  redisCa: {
    env: 'SLUICE_REDIS_CA',
    schema: z.string().min(1).optional(),
    doc: 'File with the certificates (PEM) that Redis’s own is checked against, where it is not signed by a public authority.',
  },
  redisCert: {
    env: 'SLUICE_REDIS_CERT',
    schema: z.string().min(1).optional(),
    doc: 'File with the certificate (PEM) that this process shows to a Redis that asks for one.',
  },
  redisKey: {
    env: 'SLUICE_REDIS_KEY',
    schema: z.string().min(1).optional(),
    doc: 'File with the private key (PEM) of SLUICE_REDIS_CERT.',
  },
  dataDir: {
    env: 'SLUICE_DATA_DIR',
    schema: z.string().min(1).default('.data'),
    doc: 'Folder for the generated admin password, and for the data of a Redis that `npm start` starts itself.',
    helm: '/data',
  },
  httpHost: {
    env: 'SLUICE_HTTP_HOST',
    schema: z.string().min(1).default('127.0.0.1'),
    doc: 'Address that the HTTP API listens on. `0.0.0.0` is every IPv4 address of the machine.',
    helm: '0.0.0.0',
  },
  httpPort: {
    env: 'SLUICE_HTTP_PORT',
    schema: int(0, 65_535, 8_080),
    doc: 'Port of the HTTP API, health checks and metrics. 0 picks a free one.',
  },
  httpsPort: {
    env: 'SLUICE_HTTPS_PORT',
    schema: int(0, 65_535, 8_443),
    doc: 'Port of the HTTP API with TLS; it is there once a certificate and its key are set.',
  },
  httpConnectionsMax: {
    env: 'SLUICE_HTTP_CONNECTIONS_MAX',
    schema: int(1, 1_000_000, 10_000),
    doc: 'Most HTTP connections open at once; further ones are closed at once.',
  },
  amqpHost: {
    env: 'SLUICE_AMQP_HOST',
    schema: z.string().min(1).default('127.0.0.1'),
    doc: 'Address that the AMQP 0-9-1 listener is on. `0.0.0.0` is every IPv4 address of the machine.',
    helm: '0.0.0.0',
  },
  amqpPort: {
    env: 'SLUICE_AMQP_PORT',
    schema: int(0, 65_535, 5_672),
    doc: 'Port of the AMQP 0-9-1 listener. 0 picks a free one.',
  },
  amqpsPort: {
    env: 'SLUICE_AMQPS_PORT',
    schema: int(0, 65_535, 5_671),
    doc: 'Port of the AMQP listener with TLS; it is there once a certificate and its key are set.',
  },
  tlsCert: {
    env: 'SLUICE_TLS_CERT',
    schema: z.string().min(1).optional(),
    doc: 'File with the certificate (PEM, with its chain) for HTTPS and AMQP over TLS. The files are read again when they change.',
  },
  tlsKey: {
    env: 'SLUICE_TLS_KEY',
    schema: z.string().min(1).optional(),
    doc: 'File with the private key of that certificate (PEM).',
  },
  tlsClientCa: {
    env: 'SLUICE_TLS_CLIENT_CA',
    schema: z.string().min(1).optional(),
    doc: 'File with the authority (PEM) whose client certificates prove a user: over HTTPS, and over AMQP (SASL EXTERNAL).',
  },
  tlsClientName: {
    env: 'SLUICE_TLS_CLIENT_NAME',
    schema: z.enum(['cn', 'dns', 'email', 'uri']).default('cn'),
    doc: 'What of a client certificate names the user: its common name, or its first alternative name of a kind.',
  },
  tlsOnly: {
    env: 'SLUICE_TLS_ONLY',
    schema: z.stringbool().default(false),
    doc: 'No listener without TLS: neither `SLUICE_HTTP_PORT` nor `SLUICE_AMQP_PORT` is opened.',
  },
  amqpProduct: {
    env: 'SLUICE_AMQP_PRODUCT',
    schema: z
      .string()
      .regex(/^\S{1,64} \d+\.\d+\.\d+$/, 'is a name and a version, as in `RabbitMQ 3.13.7`')
      .default('RabbitMQ 3.13.7'),
    doc: 'Product and version that AMQP clients are told. Some change their behaviour by it (Kombu, and Celery with it, use a prefetch per channel only with a RabbitMQ before 4.0).',
  },
  amqpAckTimeoutMs: {
    env: 'SLUICE_AMQP_ACK_TIMEOUT_MS',
    schema: int(0, limits.DURATION_MS_MAX, 30 * 60_000),
    doc: 'A delivery over AMQP or WebSocket that its consumer has not settled for this long goes back to its queue as a failed one; the channel lives on. 0 = never.',
  },
  adminUser: {
    env: 'SLUICE_ADMIN_USER',
    schema: z
      .string()
      .regex(/^[^:\s]{1,64}$/, 'has 1 to 64 characters, without a colon or a space')
      .default('admin'),
    doc: 'Name of the administrator, for HTTP Basic.',
  },
  adminPassword: {
    env: 'SLUICE_ADMIN_PASSWORD',
    schema: z.string().min(8).max(256).optional(),
    doc: 'Password of the administrator: HTTP Basic with the name above, or `Authorization: Bearer` alone. Unset: one is generated and kept in `admin-password` in the data folder, readable by its owner only.',
    secret: true,
  },
  loginFailuresMax: {
    env: 'SLUICE_LOGIN_FAILURES_MAX',
    schema: int(0, 1_000_000, 30),
    doc: 'Failed logins of one address that a process hears a minute (of one name: four times as many, from all addresses); past it, who was not verified within the last minute waits. 0 = no limit.',
  },
  oidcIssuer: {
    env: 'SLUICE_OIDC_ISSUER',
    schema: z.url().optional(),
    doc: 'Issuer (`iss`) whose tokens prove a user, with the permissions of their scopes (docs/security.md). Unset: no tokens.',
  },
  oidcAudience: {
    env: 'SLUICE_OIDC_AUDIENCE',
    schema: z.string().min(1).optional(),
    doc: 'Audience (`aud`) that tokens must be for; goes with the issuer.',
  },
  oidcJwksUrl: {
    env: 'SLUICE_OIDC_JWKS_URL',
    schema: z.url().optional(),
    doc: 'Where the keys of the issuer are. Unset: what its `/.well-known/openid-configuration` says.',
  },
  oidcNameClaim: {
    env: 'SLUICE_OIDC_NAME_CLAIM',
    schema: z.string().min(1).default('sub'),
    doc: 'Claim of a token with the name of the user.',
  },
  oidcScopeClaim: {
    env: 'SLUICE_OIDC_SCOPE_CLAIM',
    schema: z.string().min(1).default('scope'),
    doc: 'Claim of a token with its scopes: a text with spaces between them, or a list.',
  },
  oidcScopePrefix: {
    env: 'SLUICE_OIDC_SCOPE_PREFIX',
    schema: z.string().default(''),
    doc: 'What scopes for this broker begin with, as in `sluice.read:%2F/*`; others are ignored.',
  },
  auditKey: {
    env: 'SLUICE_AUDIT_KEY',
    schema: z.string().min(16).max(256).optional(),
    doc: 'Key of the audit log’s hashes; the same in every process. Without it, whoever can write to Redis can write the log anew.',
    secret: true,
  },
  encryptionKey: {
    env: 'SLUICE_ENCRYPTION_KEY',
    schema: z
      .string()
      .refine(isKeyList, 'is 32 bytes in hex or base64; several have commas between them')
      .optional(),
    doc: 'Key that wraps the data keys of encrypted queues (docs/encryption.md): 32 random bytes in hex or base64. Of several, separated by commas, the first wraps and all unwrap.',
    secret: true,
  },
  encryptionKeyFile: {
    env: 'SLUICE_ENCRYPTION_KEY_FILE',
    schema: z.string().min(1).optional(),
    doc: 'File with such keys, one a line, read again when it changes. They come before those of `SLUICE_ENCRYPTION_KEY`.',
  },
  encryptionKmsUrl: {
    env: 'SLUICE_ENCRYPTION_KMS_URL',
    schema: z.url({ protocol: /^https?$/ }).optional(),
    doc: 'A KMS that wraps and unwraps data keys by HTTP (docs/encryption.md); it comes before keys of a file or the environment.',
  },
  encryptionKmsToken: {
    env: 'SLUICE_ENCRYPTION_KMS_TOKEN',
    schema: z.string().min(1).optional(),
    doc: 'Bearer token that the KMS is sent.',
    secret: true,
  },
  dataKeyRotationMs: {
    env: 'SLUICE_DATA_KEY_ROTATION_MS',
    schema: int(0, limits.DURATION_MS_MAX, 0).refine(
      (ms) => ms === 0 || ms >= 86_400_000,
      'is 0 or at least a day, 86400000',
    ),
    doc: 'Age at which a data key of encrypted queues gives way to a new one; a reaper looks each `SLUICE_REAPER_SWEEP_MS`. 0 = never.',
  },
  auditEntriesMax: {
    env: 'SLUICE_AUDIT_ENTRIES_MAX',
    schema: int(1_000, 10_000_000, 100_000),
    doc: 'Entries that the audit log keeps, some 400 bytes each; the oldest go first.',
  },
  fsync: {
    env: 'SLUICE_FSYNC',
    schema: z.enum(['everysec', 'always']).default('everysec'),
    doc: 'How often the Redis that `npm start` starts itself writes to disk: `everysec` may lose a second on power loss, `always` nothing. Without effect on a Redis that `REDIS_URL` names.',
  },
  logLevel: {
    env: 'SLUICE_LOG_LEVEL',
    schema: z.enum(['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent']).default('info'),
    doc: 'Least severe log lines that are written.',
  },
  otlpEndpoint: {
    env: 'OTEL_EXPORTER_OTLP_ENDPOINT',
    schema: z.url({ protocol: /^https?$/ }).optional(),
    doc: 'Where traces, and metrics if asked for, are sent by OTLP/HTTP: `/v1/traces` and `/v1/metrics` are added. Unset: nowhere, and nothing is traced.',
  },
  otlpHeaders: {
    env: 'OTEL_EXPORTER_OTLP_HEADERS',
    schema: z
      .string()
      .regex(/^[^=,]+=[^,]*(,[^=,]+=[^,]*)*$/, 'is like `name=value,name=value`')
      .optional(),
    doc: 'Headers of every export, as `name=value,name=value` with values percent-encoded.',
    secret: true,
  },
  serviceName: {
    env: 'OTEL_SERVICE_NAME',
    schema: z.string().min(1).max(255).default('sluice'),
    doc: 'What this broker is called in traces and exported metrics.',
  },
  traces: {
    env: 'SLUICE_TRACES',
    schema: z.stringbool().default(true),
    doc: 'Whether traces are recorded where an endpoint is set.',
  },
  tracesRatio: {
    env: 'SLUICE_TRACES_RATIO',
    schema: z.coerce.number<string>().min(0).max(1).default(0.01),
    doc: 'Share of publishes without a trace of their own that start one, 0 to 1; a queue’s `x-trace-ratio` or policy `trace-ratio` counts instead. What a publisher samples is always recorded.',
  },
  otlpMetricsMs: {
    env: 'SLUICE_OTLP_METRICS_MS',
    schema: int(0, 3_600_000, 0).refine((ms) => ms === 0 || ms >= 1_000, 'is 0 or at least 1000'),
    doc: 'How often all metrics are sent to the OTLP endpoint. 0 = never; `/metrics` is there anyway.',
  },
  queueHistograms: {
    env: 'SLUICE_QUEUE_HISTOGRAMS',
    schema: z.stringbool().default(true),
    doc: 'Whether each process keeps histograms of the time in queue and of deliveries, by queue.',
  },
  messageBytesMax: {
    env: 'SLUICE_MESSAGE_BYTES_MAX',
    schema: int(1, limits.MESSAGE_BYTES_CAP, limits.MESSAGE_BYTES_DEFAULT),
    doc: 'Largest message body accepted, at every edge.',
  },
  durability: {
    env: 'SLUICE_DURABILITY',
    schema: z
      .custom<Durability>(
        (value) => typeof value === 'string' && /^(?:memory|fsync|replicas=[1-9]\d?)$/.test(value),
        'must be memory, fsync or replicas=<1..99>',
      )
      .default('memory'),
    doc: 'How safe a message is before its publish is confirmed, where neither the publish nor the queue says: `memory` (in Redis), `fsync` (on its disk; needs `appendfsync always`), `replicas=n` (on n replicas too).',
  },
  memoryHigh: {
    env: 'SLUICE_MEMORY_HIGH',
    schema: z.coerce.number<string>().min(0.1).max(1).default(0.85),
    doc: 'Share of Redis’s `maxmemory` above which publishes are refused, so that consumers can still settle. Without effect where `maxmemory` is 0.',
  },
  deadLetterRetentionMs: {
    env: 'SLUICE_DEAD_LETTER_RETENTION_MS',
    schema: int(60_000, limits.DURATION_MS_MAX, 7 * 24 * 3_600_000),
    doc: 'How long `amq.dead-letters`, where messages of queues without a dead letter exchange end, keeps one.',
  },
  drainMs: {
    env: 'SLUICE_DRAIN_MS',
    schema: int(0, 600_000, 25_000),
    doc: 'How long a stopping process may finish what it holds. Keep it under the grace period of the pod.',
  },
  workers: {
    env: 'SLUICE_WORKERS',
    schema: int(1, 256, 1),
    doc: 'Processes that share the ports, each with all services that were asked for: a core each.',
  },
  reaperPassMs: {
    env: 'SLUICE_REAPER_PASS_MS',
    schema: int(50, 60_000, 1_000),
    doc: 'Longest pause between two looks of the reaper for what is due: lapsed leases, retries, delayed and expired messages, dead processes.',
  },
  reaperSweepMs: {
    env: 'SLUICE_REAPER_SWEEP_MS',
    schema: int(1_000, 86_400_000, 60_000),
    doc: 'Time between two slow sweeps over all queues: retention, expired queues, orphaned consumers.',
  },
  pushAllow: {
    env: 'SLUICE_PUSH_ALLOW',
    schema: z
      .string()
      .optional()
      .transform((text = '') => text.split(',').flatMap((entry) => entry.trim() || []))
      .refine((entries) => entries.every(isHostOrNetwork), {
        error: 'is a list like `10.0.0.0/8, hooks.internal, *.corp.example`',
      }),
    doc: 'What push may reach that is no public host of the internet: networks, addresses, hosts and `*.` domains, separated by commas. Unset: nothing.',
  },
  allowEviction: {
    env: 'SLUICE_ALLOW_EVICTION',
    schema: z.stringbool().default(false),
    doc: 'Start even though Redis’s `maxmemory-policy` lets it throw away messages when memory is short. Only for data that may be lost.',
  },
} as const satisfies Record<string, Setting>

const KEY = /^(?:[\da-f]{64}|[\w+/-]{43}=?)$/i

function isKeyList(text: string): boolean {
  return text.split(/[\s,]+/).every((key) => key === '' || KEY.test(key))
}

const HOST = /^(?:\*\.)?(?!-)[a-z\d_-]{1,63}(?:\.[a-z\d_-]{1,63})*\.?$/i

function isHostOrNetwork(entry: string): boolean {
  const [address = '', length, ...rest] = entry.split('/')
  const version = isIP(address)
  // What ends in a number URL takes for an address, so it is no name.
  if (version === 0)
    return length === undefined && HOST.test(entry) && !/(?:^|\.)\d+\.?$/.test(entry)
  if (length === undefined) return true
  return rest.length === 0 && /^\d{1,3}$/.test(length) && +length <= (version === 4 ? 32 : 128)
}

type Key = keyof typeof SETTINGS
export type Config = { readonly [K in Key]: z.output<(typeof SETTINGS)[K]['schema']> }

const PREFIX = 'SLUICE_'

/** What the commands read (libs/cli): one shell may start a broker and talk to it. */
export const COMMAND_VARIABLES: readonly string[] = [
  'SLUICE_URL',
  'SLUICE_USER',
  'SLUICE_PASSWORD',
  'SLUICE_TOKEN',
  'SLUICE_VHOST',
  'SLUICE_PROFILE',
  'SLUICE_PROFILES',
]

/**
 * Reads and checks all settings; an empty variable counts as unset. Throws one Error that names
 * everything wrong, and never a value: also a SLUICE_ variable that does not exist, a typo.
 */
export function loadConfig(env: Readonly<Record<string, string | undefined>>): Config {
  const config: Record<string, unknown> = {}
  const wrong: string[] = []
  for (const [key, { env: name, schema }] of Object.entries(SETTINGS)) {
    const parsed = schema.safeParse(env[name] || undefined, { error: said })
    if (parsed.success) config[key] = parsed.data
    else wrong.push(`${name}: ${parsed.error.issues[0]?.message}`)
  }
  const settings = Object.values(SETTINGS).map((setting) => setting.env)
  const known = new Set<string>([...settings, ...COMMAND_VARIABLES])
  for (const name of Object.keys(env)) {
    if (name.startsWith(PREFIX) && !known.has(name)) {
      wrong.push(`${name}: there is no such setting; docs/configuration.md has all of them`)
    }
  }
  if (wrong.length > 0) throw new Error(`The configuration is wrong:\n  ${wrong.join('\n  ')}`)
  return Object.freeze(config) as Config
}

/** What a value must be, where its schema does not say so itself. */
function said(issue: z.core.$ZodRawIssue): string | undefined {
  switch (issue.code) {
    case 'invalid_type':
      return `must be a ${issue.expected === 'int' ? 'whole number' : issue.expected}`
    case 'too_small':
      return issue.origin === 'string'
        ? `must have at least ${issue.minimum} characters`
        : `must be at least ${issue.minimum}`
    case 'too_big':
      return `must be at most ${issue.maximum}`
    case 'invalid_value':
      return `must be one of ${issue.values.join(', ')}`
    default:
      return undefined
  }
}

/** The settings by their variables, for the log: secrets as `***`. */
export function maskedConfig(config: Config): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries<Setting>(SETTINGS).map(([key, { env, secret }]) => {
      const value = config[key as Key]
      return [env, secret && value !== undefined ? '***' : value]
    }),
  )
}
