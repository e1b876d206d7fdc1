/**
 * The log: JSON lines on standard error, one a thing that happened; on a terminal, for people.
 *
 * A line about a message or request that is traced has its `trace_id` and `span_id`: give it a field
 * `trace`, or the error that it is about a context (`noteTrace`). A line that repeats is counted
 * rather than written again (repeats.ts). The level may change at any time (`log.level`).
 *
 * Nothing secret gets in: known fields are redacted, and whatever a text holds, the user part of a
 * URL (`redis://user:password@host`) is cut out of each line before it is written.
 */
import type { Report } from '@sluice/core'
import { destination, type Level, type Logger, pino, stdSerializers, stdTimeFunctions } from 'pino'

import { Repeats } from './repeats.ts'
import { parseTraceparent, type TraceContext } from './trace-context.ts'

export type { Logger }

/** Fields whose values never get out, at the top of a line or one level down. */
const SECRET_FIELDS = ['password', 'adminPassword', 'authorization', 'token', 'redisUrl', 'secret']

const URL_CREDENTIALS = /(\b[a-z][a-z0-9+.-]*:\/\/)[^\s/@"]*@/gi

interface LogOptions {
  readonly level: Level | 'silent'
  /** Where lines go; standard error unless told. */
  readonly write?: (line: string) => void
  /** Lines for people rather than JSON. */
  readonly pretty?: boolean
  /** Called for each line that is left out because it repeats. */
  readonly dropped?: () => void
}

export function openLog({
  level,
  write,
  pretty = process.stderr.isTTY === true,
  dropped = () => {},
}: LogOptions): Logger {
  const repeats = new Repeats((key, repeated) => {
    const { level, msg } = JSON.parse(key) as { level: Level; msg: string }
    log[level]({ repeated }, msg)
  })
  const stderr = write === undefined ? destination({ fd: 2, sync: true }) : undefined
  const out = write ?? ((line: string) => stderr?.write(line))
  const log = pino(
    {
      level,
      base: null,
      timestamp: stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }), log: withTraceIds },
      hooks: {
        logMethod(args, method, number) {
          const [first, second] = args as [unknown, unknown]
          const msg = typeof first === 'string' ? first : second
          const level = log.levels.labels[number]
          const repeated = (first as { repeated?: unknown } | undefined)?.repeated !== undefined
          const key = JSON.stringify({ level, msg, why: messageOf(first) })
          if (repeated || repeats.admit(key)) method.apply(this, args)
          else dropped()
        },
      },
      serializers: { err: serializeError },
      redact: { paths: SECRET_FIELDS.flatMap((field) => [field, `*.${field}`]), censor: '***' },
    },
    {
      write(line: string) {
        const clean = line.replace(URL_CREDENTIALS, '$1***@')
        out(pretty ? prettyLine(clean) : clean)
      },
    },
  )
  return log
}

/** Redis's driver attaches the command to an error: credentials, scripts, messages. */
function serializeError(error: Error): unknown {
  const serialized = stdSerializers.errWithCause(error)
  for (let at: unknown = serialized; isObject(at); at = at['cause']) {
    const { command } = at
    if (isObject(command)) at['command'] = command['name']
  }
  return serialized
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null

/** Of an error that a line is about: two errors are two messages. */
function messageOf(first: unknown): string | undefined {
  const err = (first as { err?: unknown } | undefined)?.err
  return err instanceof Error ? err.message : undefined
}

const traces = new WeakMap<object, TraceContext>()

/** Says which trace an error belongs to, for the line that reports it. */
export function noteTrace(error: unknown, trace: TraceContext | undefined): void {
  if (typeof error === 'object' && error !== null && trace) traces.set(error, trace)
}

function withTraceIds(fields: Record<string, unknown>): Record<string, unknown> {
  const { trace, ...rest } = fields
  const { err } = rest
  const known = (trace ?? (err instanceof Error && traces.get(err))) as TraceContext | undefined
  const parsed = known && parseTraceparent(known.traceparent)
  if (!parsed) return trace === undefined ? fields : rest
  return { ...rest, trace_id: parsed.traceId, span_id: parsed.spanId }
}

/** Where errors go that no caller waits for. */
export function reportTo(log: Logger): Report {
  return (error) => log.error({ err: error }, 'something failed that nobody waited for')
}

function prettyLine(line: string): string {
  const { level, time, msg, err, ...rest } = JSON.parse(line) as Record<string, unknown> & {
    err?: { stack?: string }
  }
  const facts = Object.entries(rest).map(([name, value]) => ` ${name}=${JSON.stringify(value)}`)
  const stack = err?.stack === undefined ? '' : `\n${err.stack}`
  return `${String(time).slice(11, 19)} ${String(level).padEnd(5)} ${String(msg ?? '')}${facts.join('')}${stack}\n`
}
