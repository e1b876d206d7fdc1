/**
 * The network between servers of a group, as TCP proxies on loopback: a server can be cut off from
 * its peers while clients still reach it. Peers are told apart by the addresses they come from.
 */
import { once } from 'node:events'
import { connect, createServer, type Server, type Socket } from 'node:net'
import { freePort } from './free-port.ts'
import { last, type Scope } from './redis.ts'

const CLIENT = '127.0.0.1'

export class Network {
  readonly #gates: Gate[] = []
  readonly #cut = new Set<string>()
  #members = 0

  /** The address that the next member's connections come from. */
  join(): string {
    return `127.0.1.${++this.#members}`
  }

  /** Where a member is reached; `target` is to be set. Gone after the test. */
  async gate(t: Scope, member: string): Promise<Gate> {
    const blocks = (from: string) => {
      return from !== CLIENT && (this.#cut.has(from) || this.#cut.has(member))
    }
    const gate = new Gate(await freePort(), blocks)
    await gate.open()
    last(t, () => gate.close())
    this.#gates.push(gate)
    return gate
  }

  /** Nothing passes between this member and the others, and nobody is told. */
  cutOff(member: string): void {
    this.#cut.add(member)
    for (const gate of this.#gates) gate.stall()
  }

  heal(member: string): void {
    this.#cut.delete(member)
    for (const gate of this.#gates) gate.resetStalled()
  }
}

interface Wire {
  readonly from: string
  readonly near: Socket
  readonly far: Socket
  stalled: boolean
}

export class Gate {
  readonly port: number
  target = 0
  readonly #blocks: (from: string) => boolean
  readonly #wires = new Set<Wire>()
  #server: Server | undefined

  constructor(port: number, blocks: (from: string) => boolean) {
    this.port = port
    this.#blocks = blocks
  }

  async open(): Promise<void> {
    this.#server = createServer({ noDelay: true }, (near) => this.#pass(near))
    this.#server.listen(this.port, CLIENT)
    await once(this.#server, 'listening')
  }

  /** Refuses connections, as a server that is gone. */
  close(): void {
    this.#server?.close()
    for (const { near } of this.#wires) near.destroy()
  }

  stall(): void {
    for (const wire of this.#wires) {
      if (!this.#blocks(wire.from)) continue
      wire.stalled = true
      for (const socket of [wire.near, wire.far]) socket.unpipe().pause()
    }
  }

  resetStalled(): void {
    for (const { near, stalled, from } of this.#wires) {
      if (stalled && !this.#blocks(from)) near.resetAndDestroy()
    }
  }

  #pass(near: Socket): void {
    const far = connect({ port: this.target, host: CLIENT, noDelay: true })
    const wire = { from: near.remoteAddress ?? CLIENT, near, far, stalled: false }
    this.#wires.add(wire)
    for (const [socket, other] of [
      [near, far],
      [far, near],
    ] as const) {
      socket.on('error', () => {}) // its close follows
      socket.on('close', () => {
        other.destroy()
        this.#wires.delete(wire)
      })
      socket.pipe(other)
    }
    if (this.#blocks(wire.from)) this.stall()
  }
}
