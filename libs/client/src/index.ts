export { BROKER_ERROR_CODES } from './broker-error-codes.ts'
export type { CloudEvent } from './cloud-event.ts'
export { type ConsumeOptions, Consumer, type Handler } from './consumer.ts'
export {
  type CopyReceipt,
  type DeadLetterFilter,
  DeadLetters,
  type Death,
  type DeathReason,
  Letter,
  type LetterChanges,
  type LetterPage,
  Redrive,
  type RedriveOptions,
  type RedriveStatus,
  type RedriveTarget,
  type RedriveWatchOptions,
  type SearchOptions,
} from './dead-letters.ts'
export { DeadLetter, Delivery, Message, Retry } from './delivery.ts'
export {
  CLIENT_ERROR_CODES,
  type ErrorCode,
  SluiceError,
} from './errors.ts'
export type { CallOptions, SluiceOptions, TraceContext } from './http.ts'
export {
  type IdempotencyStore,
  type IdempotentOptions,
  idempotent,
  identityOf,
  MemoryStore,
} from './idempotent.ts'
export type { Body, HeaderValue, MessageOptions, Properties, Target } from './message.ts'
export {
  type BatchMessage,
  type BatchReceipt,
  Publisher,
  type PublisherOptions,
  type Receipt,
} from './publish.ts'
export { type ApiRequest, Queue, Sluice } from './sluice.ts'
export type { Socket } from './socket.ts'
export {
  type Arguments,
  type Binding,
  type ExchangeInfo,
  type ExchangeOptions,
  type ListOptions,
  type Page,
  type Policy,
  type QueueInfo,
  type QueueOptions,
  Topology,
} from './topology.ts'
export type { RetryOptions } from './wait.ts'
export type { WatchOptions } from './watch.ts'
export { type VerifiedWebhook, type VerifyOptions, verifyWebhook } from './webhook.ts'
