/**
 * A whole broker in the test's process, on a port of its own.
 *
 * A test that uses one also fails when anything was reported as unexpected while it ran, or when
 * the broker does not stop in order.
 */
import assert from 'node:assert/strict'
import type { TestContext } from 'node:test'
import { SERVICES } from '@sluice/all-in-one'
import { type Config, loadConfig } from '@sluice/config'
import { type Deps, startBroker } from '@sluice/server'
import { withRedis } from '@sluice/testkit'
import { ENCRYPTED, ENCRYPTION_ENV } from './encrypted.ts'

export const PASSWORD = 'correct horse'
export const AUTHORIZATION = `Bearer ${PASSWORD}`

export interface TestBroker {
  /** e.g. http://127.0.0.1:43210 */
  readonly http: string
  /** Where its other doors are, by name: amqp. */
  readonly doors: Readonly<Record<string, string>>
  readonly deps: Deps
  /** A vhost of this test, declared, and deleted at its end. */
  readonly vhost: string
  readonly redisUrl: string
  /** Errors that nobody expected; a test that causes some on purpose empties it. */
  readonly reported: unknown[]
  /** Asks with the credential. `path` starts below this test's vhost, or with /v1 or another root. */
  request(method: string, path: string, options?: RequestOptions): Promise<Answer>
  /** Stops it in order before the test's end. */
  close(): Promise<void>
}

interface RequestOptions {
  readonly headers?: Record<string, string>
  /** A string or Buffer is sent as it is, anything else as JSON. */
  readonly body?: unknown
}

export interface Answer {
  readonly status: number
  readonly headers: Headers
  readonly text: string
  /** The text parsed, or undefined when it is no JSON. */
  // biome-ignore lint/suspicious/noExplicitAny: tests look into answers of any shape
  readonly json: any
}

export interface BrokerOptions {
  /** Names of services; all unless told. */
  readonly services?: readonly string[]
  readonly env?: Record<string, string>
  /** A Redis of the test's own; the shared one unless told. */
  readonly redisUrl?: string
}

export async function withBroker(t: TestContext, options: BrokerOptions = {}): Promise<TestBroker> {
  const { url, vhost } = await withRedis(t)
  const redisUrl = options.redisUrl ?? url
  const services = options.services ?? Object.keys(SERVICES)
  const reported: unknown[] = []
  const broker = await startBroker(
    configFor(redisUrl, options.env),
    services.map((name) => SERVICES[name] ?? assert.fail(`there is no service ${name}`)),
    (error) => reported.push(error),
  )
  t.after(async () => {
    await broker.deps.topology.deleteVhost(vhost).catch(() => {}) // Redis may be gone by now
    const failure = await broker.close().then(
      () => undefined,
      (error: unknown) => error,
    )
    // A hook that throws keeps the later ones from running, and they end servers: judge last.
    t.after(() => {
      assert.ifError(failure)
      assert.deepEqual(reported, [], 'nothing unexpected was reported')
    })
  })
  await broker.deps.topology.declareVhost(vhost, { encryption: ENCRYPTED })
  const base = `${broker.http}/v1/vhosts/${encodeURIComponent(vhost)}`
  const request = (method: string, path: string, { headers = {}, body }: RequestOptions = {}) => {
    const root = /^\/(v1|docs|metrics|readyz|healthz|openapi)/.test(path) ? broker.http : base
    return ask(method, root + path, headers, body)
  }
  return {
    http: broker.http,
    doors: broker.doors,
    deps: broker.deps,
    vhost,
    redisUrl,
    reported,
    request,
    close: broker.close,
  }
}

export function configFor(redisUrl: string, env: Record<string, string> = {}): Config {
  return loadConfig({
    REDIS_URL: redisUrl,
    SLUICE_HTTP_PORT: '0',
    SLUICE_AMQP_PORT: '0',
    SLUICE_HTTPS_PORT: '0',
    SLUICE_AMQPS_PORT: '0',
    SLUICE_ADMIN_PASSWORD: PASSWORD,
    SLUICE_LOG_LEVEL: 'silent',
    SLUICE_DRAIN_MS: '10000',
    ...ENCRYPTION_ENV,
    ...env,
  })
}

async function ask(
  method: string,
  url: string,
  headers: Record<string, string>,
  body: unknown,
): Promise<Answer> {
  const raw =
    typeof body === 'string' || body instanceof Uint8Array || body instanceof ReadableStream
  const json = body === undefined || raw ? {} : { 'Content-Type': 'application/json' }
  const response = await fetch(url, {
    method,
    headers: { Authorization: AUTHORIZATION, ...json, ...headers },
    ...(body !== undefined && { body: isRaw(body) ? body : JSON.stringify(body) }),
    ...(body instanceof ReadableStream && { duplex: 'half' as const }),
  })
  const text = await response.text()
  let parsed: unknown
  try {
    parsed = JSON.parse(text)
  } catch {
    parsed = undefined
  }
  return { status: response.status, headers: response.headers, text, json: parsed }
}

function isRaw(body: unknown): body is string | Uint8Array<ArrayBuffer> | ReadableStream {
  return typeof body === 'string' || body instanceof Uint8Array || body instanceof ReadableStream
}
