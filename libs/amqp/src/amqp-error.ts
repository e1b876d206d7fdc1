/**
 * A protocol violation: what the peer sent is not AMQP 0-9-1. It closes the connection.
 *
 * A well-formed request that is turned down is a `BrokerError` instead.
 */

/** Reply codes of the specification (1.2, constants) that malformed bytes lead to. */
export const REPLY_CODES = { frameError: 501, syntaxError: 502 } as const

const NAMES: Readonly<Record<number, string>> = { 501: 'FRAME_ERROR', 502: 'SYNTAX_ERROR' }

export class AmqpError extends Error {
  override readonly name = 'AmqpError'
  /** Reply code for connection.close. */
  readonly replyCode: number

  /** @param explanation what is wrong, without any of the peer's bytes. */
  constructor(replyCode: number, explanation: string) {
    super(`${NAMES[replyCode] ?? 'ERROR'} - ${explanation}`)
    this.replyCode = replyCode
  }
}
