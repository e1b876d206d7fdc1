/** What a connection asks of the server that embeds it, and what it is told. */
import type { Report } from '@sluice/core'
import type { AmqpError } from './amqp-error.ts'
import type { Channel, ChannelHandler } from './channel.ts'
import type { Tuning } from './handshake.ts'
import type { Credentials, Mechanism } from './sasl.ts'
import type { Table } from './values.ts'

/** What the embedding server does for one connection. */
export interface ConnectionHandler {
  /** True when the client is who it says. What it throws fails the handshake. */
  authenticate(credentials: Credentials): Promise<boolean>
  /** Admits the client to a vhost, or throws AmqpError 530. */
  open(vhost: string): Promise<void>
  /** A new password or token for the same user; throws AmqpError 530 to refuse it. */
  updateSecret(secret: string): Promise<void>
  /** A channel was opened. Throws AmqpError to refuse it. */
  channel(channel: Channel): ChannelHandler
  /** More may be sent: `writable` was false and is true again. */
  writable(): void
  /**
   * The connection is gone and its channels are closed: delete what was exclusive to it. Called
   * exactly once; connection.close-ok waits for it when the client closed.
   */
  closed(): void | Promise<void>
}

export interface ConnectionOptions extends Tuning {
  /** product, version and the like; the capabilities are added to them. */
  readonly serverProperties: Table
  readonly mechanisms: readonly Mechanism[]
  readonly messageBytesMax: number
  /** What AMQP calls an error of the embedding server; undefined = unexpected: 541, reported. */
  readonly refusal: (error: unknown) => AmqpError | undefined
  readonly report: Report
  /** A likely mistake of whoever connected, for the log: an HTTP request, a TLS handshake. */
  readonly hint: (what: string) => void
  readonly handshakeMsMax?: number
  readonly failureDelayMs?: number
  readonly closeMsMax?: number
}
