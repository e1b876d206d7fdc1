/**
 * The log: JSON lines on standard error, one a thing that happened; on a terminal, for people.
 *
 * Nothing secret gets in: known fields are redacted, and whatever a text holds, the user part of a
 * URL (`redis://user:password@host`) is cut out of each line before it is written.
 */
import type { Report } from '@sluice/core'
import { destination, type Level, type Logger, pino, stdSerializers, stdTimeFunctions } from 'pino'

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
}

export function openLog({
  level,
  write,
  pretty = process.stderr.isTTY === true,
}: LogOptions): Logger {
  const stderr = write === undefined ? destination({ fd: 2, sync: true }) : undefined
  const out = write ?? ((line: string) => stderr?.write(line))
  return pino(
    {
      level,
      base: null,
      timestamp: stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      serializers: { err: stdSerializers.errWithCause },
      redact: { paths: SECRET_FIELDS.flatMap((field) => [field, `*.${field}`]), censor: '***' },
    },
    {
      write(line: string) {
        const clean = line.replace(URL_CREDENTIALS, '$1***@')
        out(pretty ? prettyLine(clean) : clean)
      },
    },
  )
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
