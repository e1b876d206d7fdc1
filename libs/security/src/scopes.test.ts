import assert from 'node:assert/strict'
import { test } from 'node:test'
import { readScopes } from './scopes.ts'

/** Whether any scope allows it. */
function allowed(
  scopes: readonly string[],
  operation: string,
  vhost: string,
  name: string,
  key = '',
) {
  return readScopes(scopes, '').grants.some(
    (grant) =>
      grant.operation === operation &&
      grant.vhost(vhost) &&
      grant.name(name) &&
      grant.routingKey(key),
  )
}

test('scopes allow as in RabbitMQ: wildcards, percent-encoding, absent parts are any', () => {
  const cases: [scope: string, operation: string, vhost: string, name: string, boolean, string?][] =
    [
      ['read:*/*', 'read', '/', 'q', true],
      ['read:*/*', 'write', '/', 'q', false],
      ['read:%2F/orders*', 'read', '/', 'orders.new', true],
      ['read:%2F/orders*', 'read', '/', 'my orders', false],
      ['read:%2F/orders*', 'read', 'other', 'orders', false],
      ['write:a/*.x.*', 'write', 'a', '1.x.2', true],
      ['write:a/*.x.*', 'write', 'a', '1.x', false],
      ['write:a/x/eu.*', 'write', 'a', 'x', true, 'eu.de'],
      ['write:a/x/eu.*', 'write', 'a', 'x', false, 'us.ny'],
      ['write:a/x', 'write', 'a', 'x', true, 'us.ny'],
      ['configure:a', 'configure', 'a', 'anything', true],
      ['read:a/ab*ba', 'read', 'a', 'aba', false],
      ['read:%/q', 'read', '%', 'q', false],
      ['manage:a/q', 'read', 'a', 'q', false],
    ]
  for (const [scope, operation, vhost, name, expected, key] of cases) {
    assert.equal(allowed([scope], operation, vhost, name, key), expected, `${scope} ${name}`)
  }
})

test('scopes with the prefix are ours, others are not; tags are scopes too', () => {
  const { grants, tags } = readScopes(
    ['sluice.read:*/*', 'read:*/*', 'sluice.tag:monitoring'],
    'sluice.',
  )
  assert.equal(grants.length, 1)
  assert.deepEqual([...tags].sort(), ['management', 'monitoring'])
})

test('a pattern with many wildcards is matched in no time', () => {
  const scope = `read:a/${'a*'.repeat(100)}b`
  const started = performance.now()
  assert.equal(allowed([scope], 'read', 'a', 'a'.repeat(255)), false)
  assert.ok(performance.now() - started < 2_000, 'trying every way would take years')
})
