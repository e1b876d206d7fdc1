/** A message as a JSON object: its fields (publish-fields.ts), and `body` or `bodyBase64`. */
import { BrokerError } from '@sluice/core'
import { Draft, readFields } from './publish-fields.ts'

const BODY_FIELDS: ReadonlySet<string> = new Set(['body', 'bodyBase64'])
const BASE64 = /^(?:[A-Za-z0-9+/_-]{4})*(?:[A-Za-z0-9+/_-]{2,3}={0,2})?$/

/** Throws invalid_request. @param routingKey for a message that has none of its own. */
export function readMessage(item: unknown, routingKey: string): { draft: Draft; body: Buffer } {
  if (typeof item !== 'object' || item === null || Array.isArray(item)) {
    throw new BrokerError('invalid_request', 'A message is an object.')
  }
  const draft = new Draft(routingKey)
  const fields = item as Readonly<Record<string, unknown>>
  readFields(fields, draft, BODY_FIELDS)
  return { draft, body: bodyOf(fields, draft) }
}

function bodyOf({ body, bodyBase64 }: Readonly<Record<string, unknown>>, draft: Draft): Buffer {
  if (bodyBase64 !== undefined) {
    if (body !== undefined || typeof bodyBase64 !== 'string' || !BASE64.test(bodyBase64)) {
      throw new BrokerError(
        'invalid_request',
        'bodyBase64 is base64 text, and takes the place of body.',
      )
    }
    return Buffer.from(bodyBase64, 'base64')
  }
  if (typeof body === 'string') return Buffer.from(body)
  if (body === undefined)
    throw new BrokerError('invalid_request', 'A message has body or bodyBase64.')
  draft.properties.contentType ??= 'application/json'
  return Buffer.from(stringify(body))
}

function stringify(value: unknown): string {
  try {
    return JSON.stringify(value)
  } catch (cause) {
    throw new BrokerError('invalid_request', 'body is nested too deeply.', { cause })
  }
}
