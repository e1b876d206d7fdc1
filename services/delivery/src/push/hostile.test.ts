/**
 * Answers at random: whatever bytes come, however they are cut, an attempt ends, and ends in time.
 * Method: parts of real answers, broken ones and noise, on loopback. SEED=n runs one again.
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { type AddressInfo, createServer, type Socket } from 'node:net'
import { test } from 'node:test'
import { encodeProperties } from '@sluice/amqp'
import fc from 'fast-check'
import { Guard } from './guard.ts'
import type { PushMessage } from './request.ts'
import { Endpoint } from './send.ts'
import { Subscription, VERDICTS } from './subscription.ts'

const TIMEOUT_MS = 100
/** How late a busy machine may be, ms. */
const LATE_MS = 2_000
const RUNS = process.env['SHORT'] === '1' ? 400 : 2_000
const AT_ONCE = 20

const MESSAGE: PushMessage = {
  id: '0'.repeat(24),
  deliveryCount: 1,
  record: {
    timeMs: 0,
    expiresMs: 0,
    exchange: '',
    routingKey: '',
    orderingKey: '',
    persistent: true,
    ttlMs: -1,
    properties: encodeProperties({}),
    body: Buffer.from('x'),
  },
}

interface Answer {
  readonly parts: readonly (string | Uint8Array)[]
  readonly end: 'open' | 'end' | 'reset'
}

const part = fc.oneof(
  fc.constantFrom(
    'HTTP/1.1 200 OK\r\n',
    'HTTP/1.1 503 \r\n',
    'HTTP/1.0 200\r\n',
    'HTTP/1.1 100 Continue\r\n\r\n',
    'HTTP/1.1 302 Found\r\nLocation: /\r\n',
    'HTTP/1.1 999999 X\r\n',
    'HTTP/2 200\r\n',
    'Content-Length: 3\r\n',
    'Content-Length: -1\r\n',
    'Content-Length: 99999999999999999999\r\n',
    'Transfer-Encoding: chunked\r\n',
    'Transfer-Encoding: gzip, chunked\r\n',
    'Content-Encoding: gzip\r\n',
    'Connection: close\r\n',
    'Connection: upgrade\r\nUpgrade: h2c\r\n',
    'Keep-Alive: timeout=-5, max=0\r\n',
    'Retry-After: 1e9\r\n',
    'Location: //[::1\r\n',
    ' folded\r\n',
    'A\0b: c\r\n',
    '\r\n',
    'abc',
    '3\r\nabc\r\n',
    '0\r\n\r\n',
    'fffffffffffffffff\r\n',
    '0\r\nTrailer: x\r\n\r\n',
    `X: ${'y'.repeat(20_000)}\r\n`,
    'z'.repeat(70_000),
  ),
  fc.uint8Array({ maxLength: 50 }),
)
const answer: fc.Arbitrary<Answer> = fc.record({
  parts: fc.array(part, { maxLength: 8 }),
  end: fc.constantFrom('open', 'end', 'reset'),
})

test('an attempt ends in time, whatever is answered', async (t) => {
  const answers: Answer[] = []
  const sockets = new Set<Socket>()
  const server = createServer((socket) => {
    sockets.add(socket)
    socket.on('error', () => {}).on('close', () => sockets.delete(socket))
    socket.on('data', () => {
      const { parts, end } = answers.shift() ?? { parts: [], end: 'reset' }
      for (const bytes of parts) socket.write(bytes)
      if (end === 'end') socket.end()
      if (end === 'reset') socket.resetAndDestroy()
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`
  const document = { queue: 'q', endpoint: { url, timeoutMs: TIMEOUT_MS, redirects: 1 } }
  const endpoint = new Endpoint('/', 'hook', Subscription.parse(document), new Guard(['127.0.0.1']))
  t.after(async () => {
    await endpoint.close()
    for (const socket of sockets) socket.destroy()
    server.close()
  })

  const seed = process.env['SEED'] ? { seed: Number(process.env['SEED']) } : {}
  const { signal } = new AbortController()
  await fc.assert(
    fc.asyncProperty(fc.array(answer, { minLength: AT_ONCE, maxLength: AT_ONCE }), async (all) => {
      answers.splice(0, answers.length, ...all)
      const attempts = await Promise.all(all.map(() => endpoint.send(MESSAGE, signal)))
      for (const { verdict, status, durationMs, error, answer } of attempts) {
        assert.ok(VERDICTS.includes(verdict))
        assert.ok(
          status !== undefined || error !== undefined,
          'an attempt has an answer or a reason',
        )
        assert.ok(verdict !== 'ack' || (status! >= 200 && status! < 300))
        assert.ok(durationMs < TIMEOUT_MS + LATE_MS, `${durationMs} ms`)
        assert.ok(answer.length <= 1024)
      }
    }),
    { numRuns: RUNS / AT_ONCE, ...seed },
  )
})
