/** CloudEvents 1.0 as a program has them. docs/cloudevents.md says how they travel. */
import { asObject } from './errors.ts'

/** An event. Further attributes, with lower-case names, are its extensions. */
export interface CloudEvent<T = unknown> {
  /** Names the event within its source; both together de-duplicate. Default: a random one. */
  readonly id?: string
  /** Where it happened: a URI reference. */
  readonly source: string
  /** What happened, e.g. com.example.order.created */
  readonly type: string
  readonly specversion?: '1.0'
  /** What it happened to. */
  readonly subject?: string
  /** When: RFC 3339. */
  readonly time?: string
  /** Media type of the data. Default application/json. */
  readonly datacontenttype?: string
  /** Schema of the data: a URI. */
  readonly dataschema?: string
  /** JSON, or text where `datacontenttype` says so. */
  readonly data?: T
  /** Any other data, instead of `data`. */
  readonly data_base64?: string
  readonly [extension: string]: unknown
}

const STORED = /^cloudEvents[:_]([a-z0-9]+)$/

/** The event that a delivered message is; undefined when it is none. */
export function eventOf<T>(
  headers: Readonly<Record<string, unknown>>,
  contentType: string | undefined,
  body: unknown,
): CloudEvent<T> | undefined {
  if (contentType !== undefined && /^application\/cloudevents\+json/i.test(contentType)) {
    return asObject(body) as CloudEvent<T>
  }
  const event: Record<string, unknown> = {}
  for (const [name, value] of Object.entries(headers)) {
    const attribute = STORED.exec(name)?.[1]
    if (attribute !== undefined) event[attribute] = value
  }
  if (event['specversion'] !== '1.0') return undefined
  for (const name of ['traceparent', 'tracestate']) {
    if (headers[name] !== undefined) event[name] = headers[name]
  }
  if (contentType !== undefined) event['datacontenttype'] = contentType
  return { ...event, data: body } as unknown as CloudEvent<T>
}

/** An event as it is published: with an id, and the version. */
export function completeEvent(event: CloudEvent): CloudEvent {
  return { specversion: '1.0', id: crypto.randomUUID(), ...event }
}
