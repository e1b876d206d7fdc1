/**
 * What ends a channel or a connection: a protocol violation by the peer, or a request turned down
 * in AMQP's own words.
 *
 * A well-formed request that any door would turn down is a `BrokerError` instead; the embedding
 * server says what AMQP calls that one.
 */

/** Reply codes of the specification (1.2, constants). */
export const REPLY_CODES = {
  contentTooLarge: 311,
  noRoute: 312,
  noConsumers: 313,
  connectionForced: 320,
  invalidPath: 402,
  accessRefused: 403,
  notFound: 404,
  resourceLocked: 405,
  preconditionFailed: 406,
  frameError: 501,
  syntaxError: 502,
  commandInvalid: 503,
  channelError: 504,
  unexpectedFrame: 505,
  resourceError: 506,
  notAllowed: 530,
  notImplemented: 540,
  internalError: 541,
} as const

const NAMES: ReadonlyMap<number, string> = new Map(
  Object.entries(REPLY_CODES).map(([name, code]) => [
    code,
    name.replace(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase(),
  ]),
)

/** The "soft errors": they cost the peer its channel only. */
const CLOSE_CHANNEL: ReadonlySet<number> = new Set([311, 312, 313, 403, 404, 405, 406])

export class AmqpError extends Error {
  override readonly name = 'AmqpError'
  /** Reply code for connection.close or channel.close. */
  readonly replyCode: number
  /** The method that failed, class id in the upper 16 bits; 0 = none, or not said yet. */
  readonly methodId: number

  /**
   * @param explanation what is wrong, without a secret or the peer's bytes; it goes to the peer as
   *   `NAME - explanation`.
   */
  constructor(replyCode: number, explanation: string, methodId = 0) {
    super(`${NAMES.get(replyCode) ?? 'ERROR'} - ${explanation}`)
    this.replyCode = replyCode
    this.methodId = methodId
  }

  /** What it closes when it is raised on a channel; on channel 0 it is always the connection. */
  get closes(): 'channel' | 'connection' {
    return CLOSE_CHANNEL.has(this.replyCode) ? 'channel' : 'connection'
  }
}

/** 501 for a method whose arguments are not what its definition says. */
export function cannotDecode(why: string): AmqpError {
  return new AmqpError(REPLY_CODES.frameError, `cannot decode arguments: ${why}`)
}
