/** A message for tests to which nothing but its content matters. */
import type { Message } from '@sluice/core'

export type TestMessage = Partial<Omit<Message, 'body'>> & { readonly body?: string | Buffer }

/** Persistent and without properties, but for what is given. */
export function plainMessage({ body = '', ...given }: TestMessage = {}): Message {
  return {
    exchange: '',
    routingKey: 'orders',
    orderingKey: '',
    persistent: true,
    priority: 0,
    ttlMs: -1,
    delayMs: 0,
    dedupId: '',
    durability: null,
    properties: Buffer.from([0, 0]),
    ...given,
    body: Buffer.from(body),
  }
}
