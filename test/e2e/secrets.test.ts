/**
 * Secrets stay where they belong.
 *
 * Method: one of each kind is planted where its owner would put it, and where it does not belong (a
 * broken request, a wrong login); then everything that a process shows is searched for all of them:
 * its log at the finest level, answers, metrics, the API's document, the audit log, the process
 * list.
 */
import assert from 'node:assert/strict'
import { randomBytes, randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { privateRedis } from '@sluice/testkit'
import { AmqpPeer } from '../support/amqp-peer.ts'
import { type HttpClient, httpClient, PASSWORD } from '../support/http.ts'
import { startProcess } from '../support/processes.ts'

const secret = (kind: string) => `secret-${kind}-${randomUUID()}`

const PLANTED = {
  redis: secret('redis'),
  audit: secret('audit'),
  user: secret('user'),
  guess: secret('guess'),
  bearer: secret('bearer'),
  body: secret('body'),
  header: secret('header'),
  query: secret('query'),
  pushHeader: secret('push-header'),
  wrapping: randomBytes(32).toString('hex'),
  kmsToken: secret('kms-token'),
}

/** Sends each secret where it may go, and where it may not; all that was answered. */
async function plant({ request }: HttpClient): Promise<string[]> {
  const answers: string[] = []
  const ask = async (method: string, path: string, body?: unknown, headers = {}) => {
    const answer = await request(method, path, { body, headers })
    answers.push(answer.text, JSON.stringify(answer.headers))
    return answer
  }
  const basic = (password: string) => ({
    Authorization: `Basic ${Buffer.from(`ann:${password}`).toString('base64')}`,
  })
  await ask('PUT', '/v1/users/ann', { password: PLANTED.user })
  await ask('PUT', '/v1/users/ann', { password: PLANTED.user, unknown: PLANTED.user })
  await ask('GET', '/v1/users/ann')
  await ask('GET', '/v1/whoami', undefined, basic(PLANTED.user))
  await ask('GET', '/v1/whoami', undefined, basic(PLANTED.guess))
  await ask('GET', '/v1/whoami', undefined, { Authorization: `Bearer ${PLANTED.bearer}` })
  await ask('GET', `/v1/users?token=${PLANTED.query}`)
  await ask('PUT', '/v1/vhosts/%2F', { encryption: true })
  await ask('PUT', '/v1/vhosts/%2F/queues/q', {})
  const text = { 'Content-Type': 'text/plain', 'Sluice-Header-Session': PLANTED.header }
  await ask('POST', '/v1/vhosts/%2F/queues/q/messages', PLANTED.body, text)
  await ask('POST', '/v1/vhosts/%2F/data-keys', {})
  await ask('POST', '/v1/data-keys/rewrap')
  await ask('POST', '/v1/vhosts/%2F/exchanges/x/batch', `{"body":"${PLANTED.body}`, {
    'Content-Type': 'application/x-ndjson',
  })
  const subscription = { url: 'https://example.com/', headers: { 'X-Key': PLANTED.pushHeader } }
  await ask('PUT', '/v1/vhosts/%2F/queues/q/subscriptions/s', subscription)
  await ask('GET', '/v1/vhosts/%2F/queues/q/subscriptions/s')
  return answers
}

function foundIn(text: string, secrets: Record<string, string>): string[] {
  return Object.entries(secrets)
    .filter(([, value]) => text.includes(value) || text.includes(encodeURIComponent(value)))
    .map(([kind]) => kind)
}

test('no secret is shown by the log, an answer, metrics, the audit log or the process list', async (t) => {
  const { url, redis } = await privateRedis(t)
  await redis.config('SET', 'requirepass', PLANTED.redis)
  const redisUrl = url.replace('redis://', `redis://:${PLANTED.redis}@`)
  const env = {
    SLUICE_LOG_LEVEL: 'trace',
    SLUICE_AUDIT_KEY: PLANTED.audit,
    SLUICE_ENCRYPTION_KEY: PLANTED.wrapping,
    SLUICE_ENCRYPTION_KMS_TOKEN: PLANTED.kmsToken,
  }
  const process = await startProcess(t, { redisUrl, env })
  const client = httpClient(process.http)
  t.after(() => client.close())

  const answers = await plant(client)
  const made = await client.request('POST', '/v1/api-keys', { body: {} })
  assert.equal(made.status, 201)
  const key = (made.json.key as string).slice('sluice_0123456789abcdef_'.length)
  await client.request('GET', '/v1/whoami', {
    headers: { Authorization: `Bearer ${made.json.key}x` },
  })
  const peer = await AmqpPeer.connect(Number(new URL(process.doors['amqp']!).port))
  t.after(() => peer.close())
  await assert.rejects(peer.login({ user: 'ann', password: PLANTED.guess }))

  // The queue's own content is for whoever may read it; these are for anybody.
  for (const path of [
    '/metrics',
    '/openapi.json',
    '/docs',
    '/v1/data-keys',
    '/v1/audit',
    '/v1/api-keys',
    '/v1/users',
  ]) {
    answers.push((await client.request('GET', path)).text)
  }
  assert.match(answers.at(-3)!, /login over HTTP/, 'the audit log was looked into')
  await process.stop()
  const secrets = { ...PLANTED, key, administrator: PASSWORD }
  for (const answer of answers) assert.deepEqual(foundIn(answer, secrets), [], answer)
  assert.match(process.log, /serving/, 'the log was looked into')
  assert.deepEqual(foundIn(process.log, secrets), [], process.log)
})

test('the process list shows no setting', async (t) => {
  const { url } = await privateRedis(t)
  const env = { SLUICE_AUDIT_KEY: PLANTED.audit, SLUICE_ENCRYPTION_KEY: PLANTED.wrapping }
  const { pid } = await startProcess(t, { redisUrl: url, env })
  const line = readFileSync(`/proc/${pid}/cmdline`, 'utf8')
  assert.match(line, /main\.ts/)
  assert.deepEqual(foundIn(line, { ...PLANTED, redisUrl: url, administrator: PASSWORD }), [])
})
