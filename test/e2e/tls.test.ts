/** TLS on every listener: who speaks it, who comes in by a certificate, new ones without a stop. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { copyFileSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { request as httpsRequest, type RequestOptions } from 'node:https'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { type ConnectionOptions, connect } from 'node:tls'
import { fileURLToPath } from 'node:url'
import { privateRedis, waitFor } from '@sluice/testkit'
import { WebSocket } from 'ws'
import { configFor, PASSWORD, withBroker } from '../support/broker.ts'
import { succeed } from '../support/users.ts'

const file = (name: string) => fileURLToPath(new URL(`../support/tls/${name}`, import.meta.url))
const pem = (name: string) => readFileSync(file(name))
const CA = { ca: pem('ca.pem') }
/** Of the common name `admin`, and the alternative name `localhost`. */
const CLIENT = { ...CA, cert: pem('client.pem'), key: pem('client-key.pem') }

const FILES = {
  SLUICE_TLS_CERT: file('server.pem'),
  SLUICE_TLS_KEY: file('server-key.pem'),
  SLUICE_TLS_CLIENT_CA: file('ca.pem'),
}

function ask(url: string, options: RequestOptions): Promise<{ status: number; text: string }> {
  return new Promise((resolve, reject) => {
    const req = httpsRequest(url, { agent: false, ...options }, (res) => {
      let text = ''
      res.on('data', (chunk) => {
        text += chunk
      })
      res.on('end', () => resolve({ status: res.statusCode!, text }))
    })
    req.on('error', reject).end()
  })
}

const basic = { headers: { Authorization: `Bearer ${PASSWORD}` } }

test('HTTPS is served beside HTTP: with a password, or a client certificate that names a user', async (t) => {
  const { doors } = await withBroker(t, { env: FILES })
  const url = `${doors['https']}/v1/whoami`
  assert.match(url, /^https:/)
  assert.equal((await ask(url, { ...CA, ...basic })).status, 200)
  const { text } = await ask(url, CLIENT)
  assert.deepEqual(JSON.parse(text).name, 'admin')
  assert.equal((await ask(url, CA)).status, 401, 'without any')
  await assert.rejects(ask(url, basic), /certificate/, 'the server proves itself')
})

test('a certificate of an authority that is not that of the clients proves nobody', async (t) => {
  const { SLUICE_TLS_CLIENT_CA: _, ...env } = FILES
  const { doors } = await withBroker(t, { env })
  assert.equal((await ask(`${doors['https']}/v1/whoami`, CLIENT)).status, 401)
})

test('an alternative name may be what names the user, who needs no password', async (t) => {
  const { url: redisUrl } = await privateRedis(t)
  const env = { ...FILES, SLUICE_TLS_CLIENT_NAME: 'dns' }
  const broker = await withBroker(t, { redisUrl, env })
  const url = `${broker.doors['https']}/v1/whoami`
  assert.equal((await ask(url, CLIENT)).status, 401, 'there is no user of this name')
  await succeed(broker, 'PUT', '/v1/users/localhost', {})
  assert.deepEqual(JSON.parse((await ask(url, CLIENT)).text).name, 'localhost')
})

test('WebSockets open over TLS, and a client certificate proves a user there too', async (t) => {
  const { doors, vhost } = await withBroker(t, { env: FILES })
  const at = `${doors['https']!.replace('https', 'wss')}/ws`
  for (const [options, expected] of [
    [CLIENT, 'opened'],
    [CA, 'unauthenticated'],
  ] as const) {
    const socket = new WebSocket(at, 'sluice.v1', options)
    await once(socket, 'open')
    socket.send(JSON.stringify({ type: 'open', vhost }))
    const [answer] = await Promise.race([once(socket, 'message'), once(socket, 'close')])
    assert.match(String(answer), expected === 'opened' ? /"opened"/ : /unauthenticated|^4\d{3}$/)
    socket.close()
  }
  const socket = new WebSocket(`${doors['https']!.replace('https', 'wss')}/ws/amqp`, 'amqp', CA)
  await once(socket, 'open')
  socket.close()
})

async function handshake(url: string, options: ConnectionOptions): Promise<string> {
  const { hostname: host, port } = new URL(url)
  const socket = connect({ host, port: Number(port), ...CA, ...options })
  await once(socket, 'secureConnect')
  const { subject } = socket.getPeerCertificate()
  socket.destroy()
  return String(subject.CN)
}

test('TLS below 1.2, and ciphers without forward secrecy, are refused', async (t) => {
  const { doors } = await withBroker(t, { env: FILES })
  for (const door of ['https', 'amqps']) {
    const url = doors[door]!
    await handshake(url, { minVersion: 'TLSv1.2', maxVersion: 'TLSv1.2' })
    await handshake(url, { minVersion: 'TLSv1.3' })
    const old = {
      minVersion: 'TLSv1.1',
      maxVersion: 'TLSv1.1',
      ciphers: 'ALL:@SECLEVEL=0',
    } as const
    await assert.rejects(handshake(url, old), /alert|protocol|version|ECONNRESET/i, door)
    const weak = { maxVersion: 'TLSv1.2', ciphers: 'AES128-SHA' } as const
    await assert.rejects(handshake(url, weak), /alert|handshake|ECONNRESET/i, door)
  }
})

function copies(t: TestContext) {
  const dir = mkdtempSync(join(tmpdir(), 'sluice-tls-'))
  t.after(() => rmSync(dir, { recursive: true }))
  const [cert, key] = [join(dir, 'cert.pem'), join(dir, 'key.pem')]
  const put = (of: 'server' | 'client') => {
    copyFileSync(file(`${of}.pem`), cert)
    copyFileSync(file(`${of}-key.pem`), key)
  }
  put('server')
  return { put, cert, key }
}

test('a new certificate is used without a restart; half of one changes nothing', async (t) => {
  const { put, cert, key } = copies(t)
  const { doors } = await withBroker(t, { env: { SLUICE_TLS_CERT: cert, SLUICE_TLS_KEY: key } })
  const names = () => Promise.all(['https', 'amqps'].map((door) => handshake(doors[door]!, {})))
  const before = await names()
  copyFileSync(file('client.pem'), cert)
  await new Promise((resolve) => setTimeout(resolve, 6_000))
  assert.deepEqual(await names(), before)
  put('client')
  await waitFor(async () => (await names()).join() === 'admin,admin', { timeoutMs: 20_000 })
})

test('with TLS only, nothing is said in the clear', async (t) => {
  const broker = await withBroker(t, { env: { ...FILES, SLUICE_TLS_ONLY: 'true' } })
  assert.match(broker.http, /^https:/)
  assert.deepEqual(Object.keys(broker.doors).sort(), ['amqps', 'https'])
})

test('the health check of the image asks over TLS where there is nothing else', async (t) => {
  const image = readFileSync(new URL('../../Dockerfile', import.meta.url), 'utf8')
  const [command, ...args] = JSON.parse(/HEALTHCHECK[^[]*CMD (\[.*\])/.exec(image)![1]!)
  const cwd = fileURLToPath(new URL('../..', import.meta.url))
  const check = async (env: Record<string, string>) => {
    const child = spawn(command, args, { cwd, env: { PATH: process.env['PATH']!, ...env } })
    return (await once(child, 'exit'))[0]
  }
  const broker = await withBroker(t, { env: FILES })
  const [http, https] = [broker.http, broker.doors['https']!].map((url) => new URL(url).port)
  assert.equal(await check({ SLUICE_HTTP_PORT: http! }), 0)
  const only = { SLUICE_TLS_ONLY: 'true', SLUICE_HTTP_PORT: '1' }
  assert.equal(await check({ ...only, SLUICE_HTTPS_PORT: https! }), 0)
  assert.equal(await check({ ...only, SLUICE_HTTPS_PORT: http! }), 1, 'not what it asks for')
  assert.equal(await check(only), 1, 'nobody is there')
})

test('settings that do not go together are one clear error', async () => {
  const { openTls } = await import('../../libs/server/src/tls.ts')
  const config = (env: Record<string, string>) => configFor('redis://127.0.0.1:1', env)
  const refused = (env: Record<string, string>, why: RegExp) =>
    assert.throws(() => openTls(config(env), undefined as never), why)
  refused({ SLUICE_TLS_CERT: file('server.pem') }, /go together/)
  refused({ SLUICE_TLS_ONLY: 'true' }, /needs SLUICE_TLS_CERT/)
})
