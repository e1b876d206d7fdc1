/**
 * What idle AMQP connections cost: 10 000 of them, each with one channel and heartbeats both ways.
 *
 * Method: the broker in a process of its own, raw clients in this one. Memory is the growth of the
 * broker's resident set from before the first connection, divided; CPU is the broker's own over 20
 * seconds in which nothing but heartbeats travels. Then one client publishes, to see that it still
 * works. Linux.
 */
import { connect, type Socket } from 'node:net'
import { encodeMethod, PROTOCOL_HEADER } from '@sluice/amqp'
import { privateRedis } from '@sluice/testkit'
import { AmqpPeer } from '../support/amqp-peer.ts'
import { bench } from './bench.ts'
import { cpuMicros, PASSWORD, residentBytes, startServices } from './broker-process.ts'

const HEARTBEAT_S = 10
const HEARTBEAT = Buffer.from([8, 0, 0, 0, 0, 0, 0, 0xce])
const AT_ONCE = 100
/** channel.open-ok as it arrives: the last bytes of the handshake. */
const OPENED = encodeMethod(1, { name: 'channel.open-ok' })

const HANDSHAKE = Buffer.concat([
  PROTOCOL_HEADER,
  encodeMethod(0, {
    name: 'connection.start-ok',
    clientProperties: { product: 'bench' },
    mechanism: 'PLAIN',
    response: Buffer.from(`\0admin\0${PASSWORD}`),
    locale: 'en_US',
  }),
  encodeMethod(0, {
    name: 'connection.tune-ok',
    channelMax: 2047,
    frameMax: 131_072,
    heartbeat: HEARTBEAT_S,
  }),
  encodeMethod(0, { name: 'connection.open', virtualHost: '/' }),
  encodeMethod(1, { name: 'channel.open' }),
])

await bench('amqp-idle', async (b) => {
  const redis = await privateRedis(b)
  const server = await startServices(b, ['delivery'], redis.url)
  const port = Number(new URL(server.amqp).port)
  const count = b.short ? 1_000 : 10_000
  const idleMs = b.short ? 3_000 : 20_000
  for (let i = 0; i < 20; i++) (await open(port)).destroy() // the code it needs is loaded
  await pause(2_000)
  const before = residentBytes(server.pid)

  const sockets: Socket[] = []
  const beat = setInterval(() => {
    for (const socket of sockets) socket.write(HEARTBEAT)
  }, HEARTBEAT_S * 500)
  b.after(() => {
    clearInterval(beat)
    for (const socket of sockets) socket.destroy()
  })
  const from = performance.now()
  while (sockets.length < count) {
    sockets.push(...(await Promise.all(Array.from({ length: AT_ONCE }, () => open(port)))))
  }
  const openMs = performance.now() - from
  b.say(`${count} connections are open`)
  await pause(5_000)
  const cpuBefore = cpuMicros(server.pid)
  await pause(idleMs)
  const cpuPercent = (cpuMicros(server.pid) - cpuBefore) / idleMs / 10
  b.line({
    connections: count,
    stillOpen: sockets.filter((socket) => !socket.destroyed).length,
    opensPerSecond: Math.round((count * 1_000) / openMs),
    bytesEach: Math.round((residentBytes(server.pid) - before) / count),
    cpuPercent: Math.round(cpuPercent * 10) / 10,
    heartbeatS: HEARTBEAT_S,
    roundTripMs: Math.round((await roundTripMs(port)) * 10) / 10,
  })
})

/** A connection with channel 1 open. */
function open(port: number): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect({ port, host: '127.0.0.1', noDelay: true })
    socket.once('error', reject)
    socket.write(HANDSHAKE)
    const onData = (chunk: Buffer) => {
      if (!chunk.subarray(-OPENED.length).equals(OPENED)) return
      socket
        .off('data', onData)
        .off('error', reject)
        .on('error', () => {})
      socket.resume()
      resolve(socket)
    }
    socket.on('data', onData)
    socket.once('close', () => reject(new Error('the broker hung up')))
  })
}

/** Among all the others: how long a declare takes. */
async function roundTripMs(port: number): Promise<number> {
  const peer = await AmqpPeer.connect(port)
  await peer.login({ user: 'admin', password: PASSWORD })
  await peer.openChannel(1)
  const from = performance.now()
  const flags = { passive: false, durable: true, exclusive: false, autoDelete: false }
  await peer.call(
    1,
    { name: 'queue.declare', queue: 'q', ...flags, noWait: false, arguments: {} },
    'queue.declare-ok',
  )
  const ms = performance.now() - from
  await peer.close()
  return ms
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}
