/**
 * The secrets of a subscription: values of headers, the TLS key, signing keys. They are written and
 * never read: what is shown has a mask in their place, and a mask that comes back stands for the
 * secret that is kept. A key's mask has its fingerprint, so that each of several can be named.
 */
import { BrokerError } from '@sluice/core'
import { keyFingerprint } from '@sluice/security'
import { MASK, type Subscription } from './subscription.ts'

export function masked(subscription: Subscription): Subscription {
  const { endpoint, signing } = subscription
  return {
    ...subscription,
    endpoint: {
      ...endpoint,
      headers: mapValues(endpoint.headers, () => MASK),
      ...(endpoint.tls && { tls: { ...endpoint.tls, ...(endpoint.tls.key && { key: MASK }) } }),
    },
    ...(signing && { signing: { ...signing, keys: signing.keys.map(maskedKey) } }),
  }
}

function maskedKey(key: string): string {
  return MASK + keyFingerprint(key)
}

/** `given` with what is kept in the place of masks. Throws invalid_request where nothing is kept. */
export function unmasked(given: Subscription, kept: Subscription | undefined): Subscription {
  const { endpoint, signing } = given
  const { tls } = endpoint
  const keptHeaders = new Map(
    Object.entries(kept?.endpoint.headers ?? {}).map(([name, value]) => [
      name.toLowerCase(),
      value,
    ]),
  )
  const keptKeys = new Map(kept?.signing?.keys.map((key) => [maskedKey(key), key]))
  const headers = mapValues(endpoint.headers, (value, name) =>
    value === MASK ? known(keptHeaders.get(name.toLowerCase()), `endpoint.headers.${name}`) : value,
  )
  const key = tls?.key === MASK ? known(kept?.endpoint.tls?.key, 'endpoint.tls.key') : tls?.key
  return {
    ...given,
    endpoint: { ...endpoint, headers, ...(tls && { tls: { ...tls, ...(key && { key }) } }) },
    ...(signing && {
      signing: {
        ...signing,
        keys: signing.keys.map((key, index) =>
          key.startsWith(MASK) ? known(keptKeys.get(key), `signing.keys.${index}`) : key,
        ),
      },
    }),
  }
}

function known(secret: string | undefined, at: string): string {
  if (secret !== undefined) return secret
  throw new BrokerError(
    'invalid_request',
    `${at} is a mask, and there is no such secret to keep.`,
    {
      details: { at },
    },
  )
}

function mapValues(
  record: Readonly<Record<string, string>>,
  change: (value: string, name: string) => string,
): Record<string, string> {
  return Object.fromEntries(
    Object.entries(record).map(([name, value]) => [name, change(value, name)]),
  )
}
