/**
 * The client through processes that die: what it published is stored, and what it consumes is
 * worked on, though some of it twice.
 *
 * Method: the client knows one address, a proxy, which leads to whichever process is there.
 */
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { type TestContext, test } from 'node:test'
import { Sluice } from '@sluice/client'
import { privateRedis, waitFor } from '@sluice/testkit'
import { PASSWORD } from '../support/http.ts'
import { type ServiceProcess, startProcess } from '../support/processes.ts'
import { tcpProxy } from '../support/tcp-proxy.ts'

const COUNT = 300
/** A killed process's slot is dead after 10 s. */
const REDELIVERED_MS_MAX = 40_000

async function twoProcesses(t: TestContext) {
  let client: Sluice | undefined
  t.after(async () => {
    await client?.topology.deleteVhost()
    await client?.close()
  }) // before the processes end
  const { url: redisUrl } = await privateRedis(t, { aof: false })
  const processes = [await startProcess(t, { redisUrl }), await startProcess(t, { redisUrl })] as [
    ServiceProcess,
    ServiceProcess,
  ]
  const portOf = ({ http }: ServiceProcess) => Number(new URL(http).port)
  const proxy = await tcpProxy(portOf(processes[0]))
  t.after(() => proxy.close())
  const vhost = `client-${randomUUID()}`
  const url = `http://127.0.0.1:${proxy.port}`
  const retry = { attemptsMax: 100, baseMs: 20, delayMsMax: 200 }
  const sluice = new Sluice({ url, vhost, token: PASSWORD, retry })
  client = sluice
  await sluice.topology.declareVhost()
  await sluice.topology.declareQueue('q')
  /** New connections lead there. */
  const turnTo = (process: ServiceProcess) => {
    proxy.target = portOf(process)
  }
  return { processes, sluice, turnTo }
}

test('a process that is killed costs no publish and no message', async (t) => {
  const { processes, sluice, turnTo } = await twoProcesses(t)
  const seen = new Map<unknown, number>()
  const work = ({ body }: { body: unknown }) => void seen.set(body, (seen.get(body) ?? 0) + 1)
  const consumers = (['websocket', 'http'] as const).map((via) =>
    sluice.consume('q', work, { via, concurrency: 5, leaseMs: 2_000 }),
  )
  await using socket = sluice.socket()
  const publishing: Promise<unknown>[] = []
  for (let i = 0; i < COUNT; i++) {
    const target = { queue: 'q' }
    publishing.push(i % 2 === 0 ? sluice.publish(target, i) : socket.publish(target, i))
    if (i === COUNT / 2) {
      await Promise.all(publishing.slice(0, COUNT / 4))
      await processes[0].kill9()
      turnTo(processes[1])
    }
  }
  await Promise.all(publishing)
  await waitFor(() => seen.size === COUNT, { what: 'all', timeoutMs: REDELIVERED_MS_MAX })
  await Promise.all(consumers.map((consumer) => consumer.drain()))
})

test('a process that stops in order hands its clients on, and doubles nothing', async (t) => {
  const { processes, sluice, turnTo } = await twoProcesses(t)
  const bodies = Array.from({ length: COUNT }, (_, i) => ({ body: i }))
  await sluice.publishBatch({ queue: 'q' }, bodies)
  const seen: unknown[] = []
  const slowly = async ({ body }: { body: unknown }) => {
    await new Promise((resolve) => setTimeout(resolve, 5))
    seen.push(body)
  }
  const consumer = sluice.consume('q', slowly, { concurrency: 5 })
  await waitFor(() => seen.length > 50)
  turnTo(processes[1])
  await processes[0].stop()
  await waitFor(() => seen.length >= COUNT, { what: 'all' })
  await consumer.drain()
  assert.equal(new Set(seen).size, COUNT)
  assert.equal(seen.length, COUNT)
})
