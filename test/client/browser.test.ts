/** The client as it is published, in a browser: served by a page of its own, at another origin. */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { createServer, request } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { promisify } from 'node:util'
import { chromium } from 'playwright-core'
import { PASSWORD, withBroker } from '../support/broker.ts'

const ROOT = new URL('../..', import.meta.url).pathname
const CHROMIUM = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find(
  (path) => existsSync(path),
)
const ARGS = ['--no-sandbox', '--disable-gpu', '--disable-background-networking', '--no-first-run']

/** A site with the built client, which passes requests for /v1 on to the broker. */
async function site(t: TestContext, broker: string): Promise<string> {
  const dist = mkdtempSync(join(tmpdir(), 'sluice-browser-'))
  t.after(() => rmSync(dist, { recursive: true }))
  await promisify(execFile)(process.execPath, [join(ROOT, 'libs/client/build.mjs'), dist])
  const server = createServer((req, res) => {
    const { url = '', method, headers } = req
    if (url.startsWith('/v1')) {
      const passed = request(broker + url, { method, headers }, (answer) => {
        res.writeHead(answer.statusCode!, answer.headers)
        answer.pipe(res)
      })
      passed.on('error', () => res.destroy())
      req.pipe(passed)
    } else if (url.endsWith('.js') && !url.includes('..')) {
      res.setHeader('Content-Type', 'text/javascript').end(readFileSync(join(dist, url)))
    } else {
      res.setHeader('Content-Type', 'text/html').end('<!doctype html><title>client</title>')
    }
  })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  t.after(() => {
    server.closeAllConnections()
    server.close()
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

test('in Chromium it publishes, consumes both ways, watches and verifies', async (t) => {
  if (CHROMIUM === undefined) {
    t.skip('no Chromium is installed')
    return
  }
  const browser = await chromium.launch({ executablePath: CHROMIUM, args: ARGS })
  t.after(() => browser.close())
  const { http, vhost } = await withBroker(t)
  const own = await site(t, http)
  const page = await browser.newPage()
  const complaints: string[] = []
  page.on('pageerror', (error) => complaints.push(error.message))
  await page.goto(own)
  const got = await page.evaluate(
    async ([own, broker, vhost, token]) => {
      const module = `${own}/index.js`
      const { Sluice, verifyWebhook }: typeof import('@sluice/client') = await import(module)
      const sluice = new Sluice({ url: own!, vhost: vhost!, token: token! })
      // Its WebSocket goes to the broker, which is another origin.
      const direct = new Sluice({ url: broker!, vhost: vhost!, token: token! })
      await sluice.topology.declareQueue('q')
      const bodies: unknown[] = []
      for (const [client, via] of [
        [direct, 'websocket'],
        [sluice, 'http'],
      ] as const) {
        await sluice.publish({ queue: 'q' }, { via })
        const { promise, resolve } = Promise.withResolvers<unknown>()
        const consumer = client.consume('q', ({ body }) => resolve(body), { via })
        bodies.push(await promise)
        await consumer.drain()
      }
      const watching = sluice.watch('amq.fanout')
      const again = setInterval(() => sluice.publish({ exchange: 'amq.fanout' }, 'seen'), 100)
      const { value } = await watching.next()
      clearInterval(again)
      await watching.return()
      const headers = {
        'webhook-id': 'msg_p5jXN8AQM9LWM0D4loKWxJek',
        'webhook-timestamp': '1614265330',
        'webhook-signature': 'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=',
      }
      const nowMs = 1_614_265_330_000
      const key = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'
      const { id } = await verifyWebhook('{"test": 2432232314}', headers, key, { nowMs })
      await direct.close()
      return [...bodies, value?.body, id]
    },
    [own, http, vhost, PASSWORD],
  )
  assert.deepEqual(got, [
    { via: 'websocket' },
    { via: 'http' },
    'seen',
    'msg_p5jXN8AQM9LWM0D4loKWxJek',
  ])
  assert.deepEqual(complaints, [])
})
