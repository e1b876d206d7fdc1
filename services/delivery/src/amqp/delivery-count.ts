/**
 * How often delivering a message has failed, for its consumer: the header `x-delivery-count`, as
 * quorum queues have it. Only what is redelivered has its properties decoded and encoded again.
 */
import { decodeProperties, encodeProperties } from '@sluice/amqp'
import type { Delivery } from '../handing.ts'

const HEADER = 'x-delivery-count'

/**
 * The properties to send. They go as they are when nobody can read them, or when they would grow
 * too large.
 */
export function withDeliveryCount({ redelivered, failed, record }: Delivery): Buffer {
  if (!redelivered) return record.properties
  try {
    const properties = decodeProperties(record.properties, { wide: true })
    const headers = { ...properties.headers, [HEADER]: BigInt(failed) }
    return encodeProperties({ ...properties, headers })
  } catch {
    return record.properties
  }
}
