/** Users of a test's own: users are the whole broker's, and tests share one, so names are random. */
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import type { TestBroker } from './broker.ts'

export interface TestUser {
  readonly user: string
  readonly password: string
  /** For the Authorization header. */
  readonly authorization: string
}

/** What a user may do in the test's vhost, each a regular expression; '' is for nothing. */
export interface Rules {
  readonly configure?: string
  readonly write?: string
  readonly read?: string
}

type Asking = Pick<TestBroker, 'request' | 'vhost'>

/** Stays in the tests' Redis, since the broker stops first; without rules it may enter no vhost. */
export async function newUser(
  broker: Asking,
  rules?: Rules,
  tags: readonly string[] = [],
): Promise<TestUser> {
  const user = `u-${randomUUID()}`
  const password = randomUUID()
  await succeed(broker, 'PUT', `/v1/users/${user}`, { password, tags })
  if (rules) await permit(broker, user, rules)
  const authorization = `Basic ${Buffer.from(`${user}:${password}`).toString('base64')}`
  return { user, password, authorization }
}

export async function permit(broker: Asking, user: string, rules: Rules): Promise<void> {
  const body = { configure: '', write: '', read: '', ...rules }
  await succeed(broker, 'PUT', `/v1/users/${user}/permissions/${broker.vhost}`, body)
}

interface TopicRules {
  readonly exchange: string
  readonly write?: string
  readonly read?: string
}

export async function permitTopics(
  broker: Asking,
  user: string,
  rules: readonly TopicRules[],
): Promise<void> {
  const body = rules.map((rule) => ({ write: '.*', read: '.*', ...rule }))
  await succeed(broker, 'PUT', `/v1/users/${user}/topic-permissions/${broker.vhost}`, body)
}

/** Asks as the administrator; fails the test unless it is granted. */
export async function succeed({ request }: Asking, method: string, path: string, body?: unknown) {
  const answer = await request(method, path, body === undefined ? {} : { body })
  assert.ok(answer.status < 300, `${method} ${path}: ${answer.status} ${answer.text}`)
  return answer
}
