/**
 * A wire that breaks on demand: a TCP proxy on a port of its own, in the test's process.
 *
 *   latency   every chunk arrives that much later
 *   reset     all connections end with RST, on both sides
 *   stall     half-open: connections stay, new ones are accepted, nothing passes
 *   strand    the near side is reset at once; what it had sent arrives later all the same, as from
 *             the buffers of a network that was cut and healed
 */
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { connect, createServer, type Server, type Socket } from 'node:net'

/** Bytes kept for one direction of a connection before its sender has to wait. */
const KEPT_BYTES_MAX = 1024 * 1024

export interface TcpProxy {
  readonly port: number
  /** Where new connections go; another port after a restart of whoever listens there. */
  target: number
  /** Delay of each chunk, ms. */
  latencyMs: number
  reset(): void
  /** Until `resume`. */
  stall(): void
  /** Whether the near side has sent this and it has not arrived: during a stall. */
  keeps(text: string): boolean
  resume(): void
  /** Resets the near side; what it sent arrives once `healed` settles. Ends a stall. */
  strand(healed: Promise<unknown>): void
  close(): Promise<void>
}

export async function tcpProxy(target: number): Promise<TcpProxy> {
  const proxy = new ProxyServer(target)
  await proxy.listen()
  return proxy
}

class ProxyServer implements TcpProxy {
  target: number
  latencyMs = 0
  stalled = false
  port = 0
  readonly #server: Server
  readonly #wires = new Set<Wire>()

  constructor(target: number) {
    this.target = target
    this.#server = createServer({ allowHalfOpen: true, noDelay: true }, (near) => {
      const far = connect({
        port: this.target,
        host: '127.0.0.1',
        noDelay: true,
        allowHalfOpen: true,
      })
      const wire = new Wire(this, near, far)
      this.#wires.add(wire)
      wire.onGone = () => this.#wires.delete(wire)
    })
  }

  async listen(): Promise<void> {
    this.#server.listen(0, '127.0.0.1')
    await once(this.#server, 'listening')
    this.port = (this.#server.address() as AddressInfo).port
  }

  reset(): void {
    for (const wire of [...this.#wires]) wire.reset()
  }

  stall(): void {
    this.stalled = true
  }

  keeps(text: string): boolean {
    return [...this.#wires].some((wire) => wire.keeps(text))
  }

  resume(): void {
    this.stalled = false
    for (const wire of [...this.#wires]) wire.flush()
  }

  strand(healed: Promise<unknown>): void {
    this.stalled = false
    for (const wire of [...this.#wires]) wire.strand(healed)
  }

  async close(): Promise<void> {
    this.#server.close()
    this.reset()
    await once(this.#server, 'close')
  }
}

/** One connection through the proxy: two directions that live and die together. */
class Wire {
  onGone: () => void = () => {}
  readonly #near: Socket
  readonly #far: Socket
  readonly #there: Direction
  readonly #back: Direction
  #stranded = false

  constructor(proxy: ProxyServer, near: Socket, far: Socket) {
    this.#near = near
    this.#far = far
    this.#there = new Direction(proxy, near, far)
    this.#back = new Direction(proxy, far, near)
    for (const socket of [near, far]) {
      socket.on('error', () => {}) // its close follows
      socket.on('close', () => {
        if (!this.#stranded) this.reset()
      })
    }
  }

  keeps(text: string): boolean {
    return this.#there.kept.includes(text)
  }

  flush(): void {
    this.#there.flush()
    this.#back.flush()
  }

  reset(): void {
    this.#there.drop()
    this.#back.drop()
    hangUp(this.#near)
    hangUp(this.#far)
    this.onGone()
  }

  strand(healed: Promise<unknown>): void {
    this.#stranded = true
    this.onGone()
    this.#back.drop()
    this.#far.resume() // answers to nobody
    this.#there.hold()
    hangUp(this.#near)
    const heal = () => {
      this.#there.flush()
      this.#far.end()
      setTimeout(() => this.#far.destroy(), 1_000).unref()
    }
    healed.then(heal, heal)
  }
}

/**
 * With RST, but for a socket that cannot send one (any more): Node would keep its handle for ever.
 */
function hangUp(socket: Socket): void {
  if (socket.connecting || socket.destroyed || socket.writableEnded) socket.destroy()
  else socket.resetAndDestroy()
}

/** What travels one way, in order, each chunk when it may. */
class Direction {
  readonly #proxy: ProxyServer
  readonly #from: Socket
  readonly #to: Socket
  #kept: { readonly at: number; readonly bytes: Buffer | undefined }[] = []
  #size = 0
  #timer: NodeJS.Timeout | undefined
  #held = false
  #dropped = false

  constructor(proxy: ProxyServer, from: Socket, to: Socket) {
    this.#proxy = proxy
    this.#from = from
    this.#to = to
    from.on('data', (bytes: Buffer) => this.#pass(bytes))
    from.on('end', () => this.#pass(undefined))
    to.on('drain', () => {
      if (this.#size < KEPT_BYTES_MAX) from.resume()
    })
  }

  get kept(): Buffer {
    return Buffer.concat(this.#kept.flatMap(({ bytes }) => bytes ?? []))
  }

  drop(): void {
    this.#dropped = true
    clearTimeout(this.#timer)
    this.#kept = []
  }

  /** Keeps everything until `flush`. */
  hold(): void {
    this.#held = true
  }

  /** Sends what is kept and due. */
  flush(): void {
    this.#held = false
    this.#send()
  }

  /** @param bytes undefined = the sender is done. */
  #pass(bytes: Buffer | undefined): void {
    if (this.#dropped) return
    const last = this.#kept.at(-1)
    const at = Math.max(performance.now() + this.#proxy.latencyMs, last?.at ?? 0)
    this.#kept.push({ at, bytes })
    this.#size += bytes?.length ?? 0
    if (this.#size >= KEPT_BYTES_MAX) this.#from.pause()
    this.#send()
  }

  #send(): void {
    clearTimeout(this.#timer)
    const now = performance.now()
    while (!this.#proxy.stalled && !this.#held && this.#kept.length > 0) {
      const { at, bytes } = this.#kept[0]!
      if (at > now) {
        this.#timer = setTimeout(() => this.#send(), Math.ceil(at - now))
        this.#timer.unref()
        return
      }
      this.#kept.shift()
      this.#size -= bytes?.length ?? 0
      if (bytes === undefined) this.#to.end()
      else if (!this.#to.write(bytes)) this.#from.pause()
      else if (this.#size < KEPT_BYTES_MAX) this.#from.resume()
    }
  }
}
