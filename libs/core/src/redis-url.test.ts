import assert from 'node:assert/strict'
import { test } from 'node:test'
import { parseRedisUrl } from './redis-url.ts'

test('one server, with and without what is optional', () => {
  const plain = parseRedisUrl('redis://localhost')
  assert.deepEqual(
    [plain.kind, plain.tls, plain.hosts, plain.username, plain.password, plain.db],
    ['single', false, [{ host: 'localhost', port: 6_379 }], undefined, undefined, 0],
  )
  const full = parseRedisUrl('rediss://us%40er:p%3Aw:x@[::1]:7000/3')
  assert.deepEqual(
    [full.tls, full.hosts, full.username, full.password, full.db],
    [true, [{ host: '::1', port: 7_000 }], 'us@er', 'p:w:x', 3],
  )
  assert.equal(parseRedisUrl('redis://:secret@h').password, 'secret')
  assert.equal(parseRedisUrl('redis://:secret@h').username, undefined)
})

test('sentinels name a primary and have credentials of their own', () => {
  const address = parseRedisUrl(
    'redis+sentinel://u:p@a,b:26380/mymaster/2?sentinelUser=su&sentinelPassword=s%26p',
  )
  assert.deepEqual(address, {
    kind: 'sentinel',
    tls: false,
    hosts: [
      { host: 'a', port: 26_379 },
      { host: 'b', port: 26_380 },
    ],
    username: 'u',
    password: 'p',
    db: 2,
    primary: 'mymaster',
    sentinelUsername: 'su',
    sentinelPassword: 's&p',
  })
})

test('a cluster is named by some of its nodes', () => {
  const { kind, tls, hosts } = parseRedisUrl('rediss+cluster://10.0.0.1:7000,10.0.0.2')
  assert.deepEqual([kind, tls, hosts.map(({ port }) => port)], ['cluster', true, [7_000, 6_379]])
})

test('what is no such URL is refused with what is wrong, and without its password', () => {
  const wrong: [string, RegExp][] = [
    ['', /must be a URL/],
    ['http://h', /must be a URL/],
    ['redis+other://h', /must be a URL/],
    ['redis://', /must be a URL/],
    ['redis://:secret@a,b', /several hosts/],
    ['redis://:secret@h:99999', /a host that is none/],
    ['redis://:secret@h:x', /a host that is none/],
    ['redis+sentinel://:secret@h', /name the primary/],
    ['redis+cluster://:secret@h/1', /only database 0/],
    ['redis://:secret@h/x', /database number/],
    ['redis://:secret@h/1/2', /database number/],
    ['redis://:%zz@h', /percent sign/],
    ['redis://:secret@h?family=6', /unknown parameter family/],
  ]
  for (const [url, why] of wrong) {
    assert.throws(
      () => parseRedisUrl(url),
      (error: Error) => why.test(error.message) && !error.message.includes('secret'),
      url,
    )
  }
})
