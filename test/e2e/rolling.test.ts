/**
 * Every process is replaced, one after the other, while clients work: none of them meets an error,
 * and nothing comes twice without saying so.
 *
 * Method: two processes of each service behind what stands for a load balancer, which sends new
 * connections to the one that stays. The client library publishes and consumes with its own
 * retries; amqplib publishes with confirms, connects again when its connection is closed, and sends
 * again what was not confirmed. Each process is told to stop (SIGTERM), and started anew.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { Sluice, SluiceError } from '@sluice/client'
import { privateRedis, waitFor } from '@sluice/testkit'
import { connect } from 'amqplib'
import { deploy } from '../support/deployment.ts'
import { PASSWORD } from '../support/http.ts'
import type { ServiceProcess } from '../support/processes.ts'
import { tcpProxy } from '../support/tcp-proxy.ts'

const LAYOUT = ['router reaper', 'router reaper', 'delivery', 'delivery']
/** Load between one replacement and the next. */
const LOAD_MS = 500

const portOf = (url: string) => Number(new URL(url.replace('amqp:', 'http:')).port)
const httpOf = ({ http }: ServiceProcess) => portOf(http)
const amqpOf = ({ doors }: ServiceProcess) => portOf(doors['amqp']!)

test('a rolling restart costs no client anything', async (t) => {
  const redis = await privateRedis(t)
  const { processes, vhost: make } = await deploy(t, LAYOUT, { redisUrl: redis.url })
  const vhost = await make()
  for (const queue of ['http', 'amqp']) await vhost.queue(queue)
  const balance = async (process: ServiceProcess, door: (process: ServiceProcess) => number) => {
    const proxy = await tcpProxy(door(process))
    t.after(() => proxy.close())
    return { proxy, door }
  }
  const routers = await balance(processes[0]!, httpOf)
  const deliveries = await balance(processes[2]!, httpOf)
  const amqp = await balance(processes[2]!, amqpOf)
  const open = ({ proxy }: typeof routers) => {
    const url = `http://127.0.0.1:${proxy.port}`
    const client = new Sluice({ url, vhost: vhost.name, token: PASSWORD })
    t.after(() => client.close())
    return client
  }

  const got = new Map<string, boolean[]>()
  const errors: unknown[] = []
  const consumer = open(deliveries)
  for (const queue of ['http', 'amqp']) {
    const note = ({ body, redelivered }: { body: unknown; redelivered: boolean }) => {
      got.set(String(body), [...(got.get(String(body)) ?? []), redelivered])
    }
    const onError = (error: unknown) => {
      const connects = error instanceof SluiceError && error.code === 'connection_failed'
      if (!connects) errors.push(error)
    }
    consumer.consume(queue, async (delivery) => note(delivery), { onError })
  }
  const stop = new AbortController()
  const sent: string[] = []
  const publishing = Promise.all([
    publishHttp(open(routers), sent, stop.signal),
    publishAmqp(amqp.proxy.port, vhost.name, sent, stop.signal),
  ])
  for (const [index, process] of processes.entries()) {
    await sleep(LOAD_MS)
    const other = processes[index ^ 1]!
    for (const { proxy, door } of index < 2 ? [routers] : [deliveries, amqp]) {
      proxy.target = door(other)
    }
    assert.equal(await process.stop(), 0)
    await process.restart()
  }
  await sleep(LOAD_MS)
  stop.abort()
  await publishing
  await waitFor(() => sent.every((body) => got.has(body)), { what: 'all', timeoutMs: 40_000 })
  const unmarked = [...got].filter(([, [, ...again]]) => again.includes(false))
  assert.deepEqual({ unmarked, errors }, { unmarked: [], errors: [] })
  assert(sent.length > 100, `${sent.length} were sent`)
  t.diagnostic(`${sent.length} sent, ${[...got.values()].flat().length - got.size} came again`)
})

async function publishHttp(client: Sluice, sent: string[], signal: AbortSignal): Promise<void> {
  for (let number = 0; !signal.aborted; number++) {
    await client.publish({ queue: 'http' }, `http-${number}`) // throws when it must be given up
    sent.push(`http-${number}`)
  }
}

async function publishAmqp(port: number, vhost: string, sent: string[], signal: AbortSignal) {
  for (let number = 0; !signal.aborted; ) {
    const login = `admin:${encodeURIComponent(PASSWORD)}`
    const connection = await connect(`amqp://${login}@127.0.0.1:${port}/${vhost}`)
    const closed = new Promise<false>((resolve) => connection.once('close', () => resolve(false)))
    connection.on('error', () => {}) // 320: told by `close`
    const channel = await connection.createConfirmChannel()
    channel.on('error', () => {})
    for (let open = true; open && !signal.aborted; ) {
      const body = `amqp-${number}`
      const confirmed = new Promise<boolean>((resolve) => {
        const options = { contentType: 'text/plain' }
        try {
          channel.sendToQueue('amqp', Buffer.from(body), options, (error) => resolve(!error))
        } catch {
          resolve(false) // it is closing
        }
      })
      open = await Promise.race([confirmed, closed])
      // Whether it was stored is unknown then: another one, so that what comes twice is not ours.
      number++
      if (open) sent.push(body)
    }
    await connection.close().catch(() => {})
  }
}
