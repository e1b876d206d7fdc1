/** Every method, as bytes and back; the fields' values are random. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { test } from 'node:test'
import fc from 'fast-check'
import { METHOD_CLASSES, methodLines } from '../../../tools/amqp-methods.ts'
import { encodeMethod } from './frame-writer.ts'
import { METHOD_IDS, type Method, methodName, readClientMethod, readServerMethod } from './spec.ts'
import { ValueReader } from './values.ts'

const shortstr = fc.string({ unit: 'grapheme', maxLength: 20 })
const VALUES: Record<string, fc.Arbitrary<unknown>> = {
  bit: fc.boolean(),
  octet: fc.nat(255),
  short: fc.nat(65_535),
  long: fc.nat(0xffff_ffff),
  longlong: fc.maxSafeNat(),
  shortstr,
  longstr: fc.string({ unit: 'grapheme', maxLength: 400 }),
  longbytes: fc.uint8Array({ maxLength: 400 }).map((bytes) => Buffer.from(bytes)),
  table: fc.dictionary(shortstr, fc.oneof(shortstr, fc.integer(), fc.boolean()), {
    maxKeys: 5,
    noNullPrototype: true,
  }),
}

for (const methodClass of METHOD_CLASSES) {
  const { id, name } = methodClass
  for (const [number = '', short = '', direction = '', ...fields] of methodLines(methodClass)) {
    const method = `${name}.${short}` as keyof typeof METHOD_IDS
    test(`${method} comes back as it was sent`, () => {
      assert.equal(METHOD_IDS[method], id * 0x10000 + Number(number))
      assert.equal(methodName(METHOD_IDS[method]), method)
      const named = fields.filter((field) => !field.startsWith('('))
      const shape = Object.fromEntries(
        named.map((field) => {
          const [key = '', type = ''] = field.split(':')
          return [key, VALUES[type]!]
        }),
      )
      fc.assert(
        fc.property(fc.record(shape), (values) => {
          const sent = { name: method, ...values } as unknown as Method
          const frame = encodeMethod(7, sent)
          assert.equal(frame.readUInt32BE(3), frame.length - 8)
          const reader = new ValueReader(frame.subarray(7, -1))
          const methodId = reader.long()
          const read = direction === '<' ? readServerMethod : readClientMethod
          assert.deepEqual(read(methodId, reader), sent)
          assert.equal(reader.left, 0)
          const wrongWay = direction === '<' ? readClientMethod : readServerMethod
          if (direction !== '=') assert.equal(wrongWay(methodId, reader), undefined)
        }),
        { numRuns: 50 },
      )
    })
  }
}

test('vectors of the specification: bits share an octet, reserved fields are zero', () => {
  const declare = encodeMethod(1, {
    name: 'queue.declare',
    queue: 'q',
    passive: false,
    durable: true,
    exclusive: false,
    autoDelete: true,
    noWait: false,
    arguments: {},
  })
  assert.equal(declare.toString('hex'), '0100010000000d0032000a000001710a00000000ce')
})

test('the generated file is what the table says', () => {
  execFileSync(process.execPath, ['tools/amqp-spec.ts', '--check'], {
    cwd: new URL('../../..', import.meta.url),
  })
})
