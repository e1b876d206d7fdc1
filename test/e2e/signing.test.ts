/**
 * Signed webhooks, verified by their receiver: a server in Python whose check is the one on
 * docs/signing.md, with nothing but Python's library. Method: it answers 204 to what it verified
 * and 401 to all else, and the broker pushes to it, or somebody who is not the broker does.
 */
import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { type TestContext, test } from 'node:test'
import { privateRedis, waitFor } from '@sluice/testkit'
import { type TestBroker, withBroker } from '../support/broker.ts'

const PAGE = readFileSync(new URL('../../docs/signing.md', import.meta.url), 'utf8')
const CHECK = /```python\n(.*?)```/s.exec(PAGE)?.[1] ?? assert.fail('the page has no Python')

/** Prints its port, then each body that it verified. */
const SERVER = `${CHECK}
import http.server, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        good = verified(sys.argv[1], self.headers, body)
        self.send_response(204 if good else 401)
        self.end_headers()
        if good: print(body.decode(), flush=True)
    def log_message(self, *_): pass

server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
`

const newKey = () => `whsec_${randomBytes(32).toString('base64')}`

async function receiver(t: TestContext, key: string) {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-signing-'))
  t.after(() => rmSync(folder, { recursive: true }))
  const file = join(folder, 'receiver.py')
  writeFileSync(file, SERVER)
  const python = spawn('python3', [file, key], { stdio: ['ignore', 'pipe', 'inherit'] })
  t.after(() => python.kill())
  const verified: string[] = []
  const lines = createInterface(python.stdout)
  const [port] = await once(lines, 'line')
  lines.on('line', (line) => verified.push(line))
  return { url: `http://127.0.0.1:${port}/hook`, verified }
}

async function subscribe({ request }: TestBroker, url: string, keys: readonly string[]) {
  const body = { queue: 'bills', endpoint: { url }, signing: { scheme: 'hmac', keys } }
  const { status, text } = await request('PUT', '/subscriptions/bank', { body })
  assert.ok(status < 300, text)
}

const publish = ({ request }: TestBroker, body: string) =>
  request('POST', '/queues/bills/messages', { body })

async function setup(t: TestContext) {
  if (spawnSync('python3', ['--version']).status !== 0) {
    t.skip('no python3')
    return undefined
  }
  const { url } = await privateRedis(t, { aof: false }) // others' processes would push, too
  const broker = await withBroker(t, { redisUrl: url, env: { SLUICE_PUSH_ALLOW: '127.0.0.1' } })
  await broker.request('PUT', '/queues/bills', { body: {} })
  return broker
}

test('what the broker pushes is verified; what others send is not', async (t) => {
  const broker = await setup(t)
  if (!broker) return
  const key = newKey()
  const { url, verified } = await receiver(t, key)
  await subscribe(broker, url, [key])
  await publish(broker, 'Grüße, 12.50 €')
  await waitFor(() => verified.length === 1, { what: 'the first webhook' })
  assert.deepEqual(verified, ['Grüße, 12.50 €'])
  await waitFor(async () => {
    const { messages } = (await broker.request('GET', '/queues/bills')).json
    return messages.ready + messages.unacked === 0
  })

  const now = String(Math.floor(Date.now() / 1_000))
  const forged = { 'webhook-id': 'msg_1', 'webhook-timestamp': now, 'webhook-signature': 'v1,AAAA' }
  assert.equal((await fetch(url, { method: 'POST', headers: forged, body: 'x' })).status, 401)

  await subscribe(broker, url, [newKey()])
  const fired = await broker.request('POST', '/subscriptions/bank/test')
  assert.equal(fired.json.exchanges[0].answer.status, 401, 'another key')
  assert.equal(verified.length, 1)
})

test('keys are exchanged while every webhook is verified', async (t) => {
  const broker = await setup(t)
  if (!broker) return
  const [old, next] = [newKey(), newKey()]
  const [before, after] = [await receiver(t, old), await receiver(t, next)]
  const answered = async ({ url }: { url: string }, keys: readonly string[]) => {
    await subscribe(broker, url, keys)
    const fired = await broker.request('POST', '/subscriptions/bank/test')
    return fired.json.exchanges[0].answer.status
  }
  assert.equal(await answered(before, [old]), 204)
  const kept = (await broker.request('GET', '/subscriptions/bank')).json.signing.keys
  assert.equal(await answered(before, [next, ...kept]), 204, 'the old key beside the new one')
  assert.equal(await answered(after, [next, ...kept]), 204, 'the new key beside the old one')
  assert.equal(await answered(after, [next]), 204, 'the new key alone')
  assert.equal(await answered(before, [next]), 401)
})

test('ed25519: the public key that is shown verifies', async (t) => {
  const broker = await setup(t)
  if (!broker) return
  const seed = randomBytes(32)
  const signing = { scheme: 'ed25519', keys: [`whsk_${seed.toString('base64')}`] }
  const body = { queue: 'bills', paused: true, endpoint: { url: 'http://127.0.0.1:9/' }, signing }
  assert.equal((await broker.request('PUT', '/subscriptions/bank', { body })).status, 201)
  const { publicKeys } = (await broker.request('GET', '/subscriptions/bank')).json
  const fired = (await broker.request('POST', '/subscriptions/bank/test')).json.exchanges[0].request
  const header = (name: string) =>
    fired.headers.find((line: string) => line.startsWith(`${name}: `)).slice(name.length + 2)
  const raw = Buffer.from(publicKeys[0].slice('whpk_'.length), 'base64')
  const key = await crypto.subtle.importKey('raw', raw, 'Ed25519', false, ['verify'])
  const signed = `${header('webhook-id')}.${header('webhook-timestamp')}.${fired.body}`
  const signature = Buffer.from(header('webhook-signature').slice('v1a,'.length), 'base64')
  assert.ok(await crypto.subtle.verify('Ed25519', key, signature, Buffer.from(signed)))
})
