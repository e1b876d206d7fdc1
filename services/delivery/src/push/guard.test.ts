/** Method: names resolve as a test says, since no name server may be asked; the rest is real. */
import assert from 'node:assert/strict'
import type { LookupAddress } from 'node:dns'
import { isIP } from 'node:net'
import { test } from 'node:test'
import { promisify } from 'node:util'
import fc from 'fast-check'
import { isWithin, parseAddress, parseRange } from './address.ts'
import { Guard, RefusedAddress } from './guard.ts'

const REFUSED = [
  'http://127.0.0.1/',
  'http://127.255.255.254/',
  'http://127.1/',
  'http://127.0.0.1./',
  'http://2130706433/',
  'http://0x7f000001/',
  'http://0x7f.0.0.1/',
  'http://0177.0.0.1/',
  'http://017700000001/',
  'http://%31%32%37.0.0.1/',
  'http://１２７。０。０。１/',
  'http://0/',
  'http://0.0.0.0/',
  'http://0.1.2.3/',
  'http://10.0.0.1/',
  'http://100.64.0.1/',
  'http://100.127.255.255/',
  'http://100.100.100.200/',
  'http://168.63.129.16/',
  'http://169.254.0.1/',
  'http://169.254.169.254/latest/meta-data/',
  'http://0xa9fea9fe/',
  'http://172.16.0.1/',
  'http://172.31.255.255/',
  'http://192.0.0.192/',
  'http://192.0.2.1/',
  'http://192.168.1.1/',
  'http://198.18.0.1/',
  'http://198.51.100.7/',
  'http://203.0.113.9/',
  'http://224.0.0.1/',
  'http://239.255.255.250/',
  'http://240.0.0.1/',
  'http://255.255.255.255/',
  'http://[::]/',
  'http://[::1]/',
  'http://[0:0:0:0:0:0:0:1]/',
  'http://[::127.0.0.1]/',
  'http://[::ffff:127.0.0.1]/',
  'http://[::ffff:7f00:1]/',
  'http://[::ffff:169.254.169.254]/',
  'http://[::ffff:0:127.0.0.1]/',
  'http://[64:ff9b::10.0.0.1]/',
  'http://[64:ff9b::a9fe:a9fe]/',
  'http://[64:ff9b:1::8.8.8.8]/',
  'http://[100::1]/',
  'http://[2001::1]/',
  'http://[2001:db8::1]/',
  'http://[2002:7f00:1::]/',
  'http://[3fff::1]/',
  'http://[5f00::1]/',
  'http://[fc00::1]/',
  'http://[fd00:ec2::254]/',
  'http://[fe80::1]/',
  'http://[fec0::1]/',
  'http://[ff02::1]/',
]

for (const url of REFUSED) {
  test(`refused: ${url}`, () => {
    assert.ok(new Guard([]).refusal(new URL(url).hostname) instanceof RefusedAddress)
  })
}

const REACHED = [
  'http://8.8.8.8/',
  'http://100.63.255.255/',
  'http://100.128.0.0/',
  'http://172.15.255.255/',
  'http://172.32.0.0/',
  'http://192.0.1.1/',
  'http://223.255.255.255/',
  'http://[2606:4700::1111]/',
  'http://[::ffff:8.8.8.8]/',
  'http://[64:ff9b::8.8.8.8]/',
]

for (const url of REACHED) {
  test(`reached: ${url}`, () => {
    assert.equal(new Guard([]).refusal(new URL(url).hostname), undefined)
  })
}

function resolving(names: Readonly<Record<string, readonly string[]>>, asked: string[] = []) {
  return async (name: string): Promise<LookupAddress[]> => {
    asked.push(name)
    const addresses = names[name]
    if (!addresses) throw new Error(`ENOTFOUND ${name}`)
    return addresses.map((address) => ({ address, family: isIP(address) }))
  }
}

for (const addresses of [
  ['127.0.0.1'],
  ['8.8.8.8', '10.0.0.1'],
  ['2606:4700::1111', '::1'],
  ['fe80::1%eth0'],
  ['nonsense'],
]) {
  test(`a name is refused that resolves to ${addresses.join(' and ')}`, async () => {
    const guard = new Guard([], resolving({ 'inner.example': addresses }))
    assert.equal(guard.refusal('inner.example'), undefined, 'a name is judged once it is resolved')
    await assert.rejects(guard.addressesOf('inner.example'), (error: Error) => {
      assert.ok(error instanceof RefusedAddress)
      assert.ok(!addresses.some((address) => error.message.includes(address)), 'and not shown')
      return true
    })
  })
}

test('what is looked up for a connection is what was judged', async () => {
  const turns = [['8.8.8.8'], ['127.0.0.1']]
  const guard = new Guard([], async () => turns.shift()!.map((address) => ({ address, family: 4 })))
  const lookup = promisify(guard.lookup) as (name: string, options: object) => Promise<unknown>
  assert.deepEqual(await lookup('re.example', { all: true }), [{ address: '8.8.8.8', family: 4 }])
  assert.deepEqual(await lookup('re.example', {}), '8.8.8.8', 'for a moment the answer is kept')
  assert.equal(turns.length, 1)
})

test('equal look-ups under way are one', async () => {
  const asked: string[] = []
  const guard = new Guard([], resolving({ 'a.example': ['8.8.8.8'] }, asked))
  await Promise.all(Array.from({ length: 10 }, () => guard.addressesOf('a.example')))
  assert.deepEqual(asked, ['a.example'])
})

test('names that do not resolve hold up only each other', async () => {
  const { promise: silence, reject: give } = Promise.withResolvers<LookupAddress[]>()
  let dead = false
  const guard = new Guard([], async (name) => {
    if (name === 'good.example') return [{ address: '8.8.8.8', family: 4 }]
    if (!dead) throw new Error('ENOTFOUND')
    return silence
  })
  const names = Array.from({ length: 10 }, (_, i) => `dead${i}.example`)
  await Promise.allSettled(names.map((name) => guard.addressesOf(name)))
  dead = true
  const waiting = Promise.allSettled(names.map((name) => guard.addressesOf(name)))
  assert.equal((await guard.addressesOf('good.example')).length, 1)
  give(new Error('ETIMEOUT'))
  assert.ok((await waiting).every(({ status }) => status === 'rejected'))
})

test('what the settings allow is reached: networks, addresses, hosts and domains', async () => {
  const allow = ['10.0.0.0/8', '::1', 'Inner.example', '*.corp.example']
  const names = {
    'inner.example': ['127.0.0.1'],
    'INNER.example.': ['127.0.0.1'],
    'a.corp.example': ['192.168.0.1'],
    'corp.example': ['192.168.0.1'],
    'evilcorp.example': ['192.168.0.1'],
    'ten.example': ['10.1.2.3'],
    'mixed.example': ['10.1.2.3', '192.168.0.1'],
  }
  const guard = new Guard(allow, resolving(names))
  assert.equal(guard.refusal('10.2.3.4'), undefined)
  assert.equal(guard.refusal('[::ffff:10.2.3.4]'), undefined)
  assert.equal(guard.refusal('[::1]'), undefined)
  assert.ok(guard.refusal('127.0.0.1'))
  assert.ok(guard.refusal('11.example') === undefined)
  for (const name of ['inner.example', 'INNER.example.', 'a.corp.example', 'ten.example']) {
    assert.equal((await guard.addressesOf(name)).length, 1, name)
  }
  for (const name of ['corp.example', 'evilcorp.example', 'mixed.example']) {
    await assert.rejects(guard.addressesOf(name), RefusedAddress, name)
  }
})

test('every address is read as URL reads it, and lies in its own networks only', () => {
  const address = fc.oneof(fc.ipV4(), fc.ipV6())
  fc.assert(
    fc.property(address, fc.nat(128), (text, length) => {
      const bytes = parseAddress(text)!
      const bits = 8 * bytes.length
      const range = parseRange(`${text}/${length % (bits + 1)}`)!
      assert.ok(isWithin(bytes, range))
      if (range.prefix === 0) return
      const other = Uint8Array.from(bytes)
      other[(range.prefix - 1) >> 3]! ^= 0x80 >> ((range.prefix - 1) & 7)
      assert.ok(!isWithin(other, range))
    }),
  )
})

test('what is no address or network is none', () => {
  for (const text of ['', 'a', '1.2.3', '1.2.3.4/33', '::/129', '1.2.3.4/', '1.2.3.4/8/8', '/8']) {
    assert.equal(parseRange(text), undefined, text)
  }
})
