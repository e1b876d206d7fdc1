/** A raw client of the WebSocket door: sends frames as they are, keeps what comes. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { waitFor } from '@sluice/testkit'
import { WebSocket } from 'ws'
import { AUTHORIZATION } from './broker.ts'

// biome-ignore lint/suspicious/noExplicitAny: tests look into frames of any shape
export type Frame = { type: string; [field: string]: any }

export interface WsPeerOptions {
  readonly vhost?: string
  /** undefined = none. */
  readonly authorization?: string | undefined
  readonly headers?: Record<string, string>
  readonly protocol?: string
  /** Answers no ping. */
  readonly silent?: boolean
}

export class WsPeer {
  readonly socket: WebSocket
  /** Everything received and not taken by `next`, in order. */
  readonly frames: Frame[] = []
  closed: { code: number; reason: string } | undefined

  constructor(http: string, options: WsPeerOptions = {}) {
    const { headers = {}, protocol = 'sluice.v1', silent = false } = options
    const url = `${http.replace(/^http/, 'ws')}/ws`
    this.socket = new WebSocket(url, protocol, { headers, autoPong: !silent })
    this.socket.on('message', (data) => this.frames.push(JSON.parse(String(data))))
    this.socket.on('close', (code, reason) => {
      this.closed = { code, reason: String(reason) }
    })
    this.socket.on('error', () => {})
  }

  /** Connected, with the credential in its headers, and opened. */
  static async open(http: string, options: WsPeerOptions = {}): Promise<WsPeer> {
    const { vhost = '/', authorization = AUTHORIZATION } = options
    const peer = new WsPeer(http, options)
    await once(peer.socket, 'open')
    peer.send({ type: 'open', vhost, authorization })
    await peer.next('opened')
    return peer
  }

  send(frame: Frame | string): void {
    this.socket.send(typeof frame === 'string' ? frame : JSON.stringify(frame))
  }

  /** Takes the first frame that fits; fails when none comes within 10 s. */
  async next(type: string, fits: (frame: Frame) => boolean = () => true): Promise<Frame> {
    const at = () => this.frames.findIndex((frame) => frame.type === type && fits(frame))
    const found = () => at() >= 0
    await waitFor(found, { what: `${type}, after ${JSON.stringify(this.frames).slice(0, 500)}` })
    return this.frames.splice(at(), 1)[0] ?? assert.fail()
  }

  /** Sends a frame and takes its answer. */
  async ask(frame: Frame, answer: string): Promise<Frame> {
    const id = crypto.randomUUID()
    this.send({ ...frame, id })
    const fits = ({ type, id: of }: Frame) => of === id && (type === answer || type === 'error')
    await waitFor(() => this.frames.some(fits), { what: `an answer to ${frame.type}` })
    const [got] = this.frames.splice(this.frames.findIndex(fits), 1)
    assert.equal(got?.type, answer, JSON.stringify(got))
    return got
  }

  async ended(): Promise<{ code: number; reason: string }> {
    await waitFor(() => this.closed !== undefined, { what: 'the close' })
    return this.closed!
  }

  async close(): Promise<void> {
    this.socket.close()
    await this.ended()
  }
}
