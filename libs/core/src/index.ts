export { BrokerError, ERROR_CODES, type ErrorCode } from './errors.ts'
export {
  onAbort,
  type Report,
  type Running,
  runParts,
  type Start,
  stopOnSignals,
} from './lifecycle.ts'
export * as limits from './limits.ts'
export type { Appended, DeathReason, Durability, Message } from './message.ts'
export {
  DEAD_LETTER_QUEUE,
  DEFAULT_EXCHANGE,
  DEFAULT_EXCHANGE_ALIAS,
  DEFAULT_VHOST,
  exchangeName,
  parseName,
  RESERVED_PREFIX,
} from './names.ts'
export { compilePattern, PATTERN_LENGTH_MAX, type Pattern } from './pattern.ts'
export { parseRedisUrl, type RedisAddress, type RedisHost } from './redis-url.ts'
export { RETRY_DEFAULT, type RetryPolicy, retryDelayMs } from './retry.ts'
