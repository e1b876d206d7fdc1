/**
 * What security costs: publishing one message a request over HTTP as the administrator, as a user
 * with permissions and topic permissions, by an API key, and over TLS; each in turn, round by
 * round, so that the ratios are of one run. Then what a login costs that nobody remembers.
 */
import assert from 'node:assert/strict'
import { fileURLToPath } from 'node:url'
import { privateRedis } from '@sluice/testkit'
import { type Bench, bench, median, perSecond } from './bench.ts'
import {
  cpuMicros,
  declare,
  headers,
  PASSWORD,
  type Server,
  startServices,
} from './broker-process.ts'
import { connectTo, encodeRequest, load } from './http-load.ts'

const ROUNDS = 5
const CONNECTIONS = 32
const BODY = Buffer.alloc(256, 'x')
const USER = { name: 'bench', password: 'a password of a user' }
const LOGINS = 8

const file = (name: string) => fileURLToPath(new URL(`../support/tls/${name}`, import.meta.url))
const TLS = {
  SLUICE_TLS_CERT: file('server.pem'),
  SLUICE_TLS_KEY: file('server-key.pem'),
  SLUICE_HTTPS_PORT: '0',
}

async function ask(url: string, method: string, path: string, body: unknown): Promise<string> {
  const options = { method, headers: headers('application/json'), body: JSON.stringify(body) }
  const response = await fetch(`${url}${path}`, options)
  const text = await response.text()
  assert.ok(response.ok, text)
  return text
}

const basic = (password: string) =>
  `Basic ${Buffer.from(`${USER.name}:${password}`).toString('base64')}`

/** By name: where a publish goes, and who sends it. */
async function variants({ url, https }: Server) {
  await declare(url, 'q')
  await ask(url, 'PUT', '/v1/vhosts/%2F/bindings', {
    source: 'amq.topic',
    destination: 'q',
    routingKey: '#',
  })
  await ask(url, 'PUT', '/v1/vhosts/%2F/policies/short', {
    pattern: '^q$',
    applyTo: 'queues',
    definition: { 'max-length': 1_000 },
  })
  await ask(url, 'PUT', `/v1/users/${USER.name}`, { password: USER.password })
  const permission = { configure: '', write: '^amq\\.', read: '' }
  await ask(url, 'PUT', `/v1/users/${USER.name}/permissions/%2F`, permission)
  const topics = [{ exchange: 'amq.topic', write: '^{username}\\.', read: '' }]
  await ask(url, 'PUT', `/v1/users/${USER.name}/topic-permissions/%2F`, topics)
  const { key } = JSON.parse(await ask(url, 'POST', '/v1/api-keys', { owner: USER.name }))
  const path = '/v1/vhosts/%2F/exchanges/amq.topic/messages?routingKey=bench.key'
  const request = (Authorization: string) =>
    encodeRequest('POST', path, { ...headers('text/plain'), Authorization }, BODY)
  return {
    administrator: { url, request: request(`Bearer ${PASSWORD}`) },
    user: { url, request: request(basic(USER.password)) },
    'api key': { url, request: request(`Bearer ${key}`) },
    'administrator, TLS': { url: https, request: request(`Bearer ${PASSWORD}`) },
  }
}

async function publishing(b: Bench, server: Server): Promise<void> {
  const ms = b.short ? 300 : 3_000
  const all = Object.entries(await variants(server))
  const results = new Map(
    all.map(([name]) => [name, { rates: [] as number[], cpu: [] as number[] }]),
  )
  for (const [, { url, request }] of all) {
    const first = await connectTo(url) // a password is verified once, and then known
    await first.ask(request)
    first.close()
  }
  for (let round = 0; round < (b.short ? 1 : ROUNDS); round++) {
    for (const [name, { url, request }] of all) {
      const running = await load(url, request, CONNECTIONS)
      await perSecond(ms / 3, running.count)
      const [before, cpuBefore] = [running.count(), cpuMicros(server.pid)]
      const rate = await perSecond(ms, running.count)
      const cpu = (cpuMicros(server.pid) - cpuBefore) / (running.count() - before)
      await running.stop()
      assert.equal(running.wrong(), 0, `${name}: wrong answers`)
      results.get(name)!.rates.push(rate)
      results.get(name)!.cpu.push(cpu)
    }
    b.say(`round ${round + 1}`)
  }
  const base = results.get('administrator')!
  for (const [name, { rates, cpu }] of results) {
    const against = median(cpu.map((micros, round) => micros / base.cpu[round]!))
    b.line({
      publishing: name,
      perSecond: Math.round(median(rates)),
      cpuMicros: Number(median(cpu).toFixed(1)),
      cpuAgainstAdministrator: Number(against.toFixed(2)),
    })
  }
}

/** Wrong passwords, which are not remembered: what each costs, and how many are heard a second. */
async function logins(b: Bench, { url, pid }: Server): Promise<void> {
  const cpuBefore = cpuMicros(pid)
  const started = performance.now()
  const guess = (i: number) =>
    fetch(`${url}/v1/whoami`, { headers: { Authorization: basic(`guess ${i}`) } })
  const answers = await Promise.all(Array.from({ length: LOGINS }, (_, i) => guess(i)))
  assert.ok(answers.every(({ status }) => status === 401))
  const ms = performance.now() - started
  b.line({
    logins: LOGINS,
    perSecond: Number(((LOGINS * 1_000) / ms).toFixed(1)),
    cpuMs: Math.round((cpuMicros(pid) - cpuBefore) / 1_000 / LOGINS),
  })
}

await bench('security', async (b) => {
  const { url } = await privateRedis(b)
  const server = await startServices(b, ['router'], url, TLS)
  await publishing(b, server)
  await logins(b, server)
})
