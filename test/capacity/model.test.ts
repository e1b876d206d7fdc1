import assert from 'node:assert/strict'
import { test } from 'node:test'
import { answer, type Coefficients, deliveriesPerMessage, throughput } from './model.ts'

const COEFFICIENTS: Coefficients = {
  storeMsEach: 0.01,
  storeBaseMs: 5,
  bytesEach: 60,
  bytesPerBodyByte: 1.1,
  overheadMs: 2,
  deliveriesPerSecondMax: 4_000,
}
const QUESTION = {
  ...{ messages: 100_000, consumers: 4, errors: 0.2, workMs: 8 },
  ...{ bodyBytes: 100, deliveriesMax: 21 },
}

test('few consumers are as fast as their work lets them be', () => {
  const said = answer(COEFFICIENTS, { ...QUESTION, errors: 0, consumers: 1 })
  near(said.deliveriesPerSecond, 100)
  near(said.drainMs, 1_000_000)
  assert.equal(said.limit, 'consumers')
})

test('many consumers are as fast as the broker, and never faster', () => {
  const said = answer(COEFFICIENTS, { ...QUESTION, errors: 0, consumers: 1_000 })
  near(said.deliveriesPerSecond, 4_000)
  assert.equal(said.limit, 'broker')
  for (const consumers of [1, 10, 39, 40, 41, 100]) {
    const perSecond = throughput({ consumers, cycleMs: 10, most: 4_000 })
    assert.ok(perSecond <= Math.min(consumers * 100, 4_000) + 1e-6, `${consumers}: ${perSecond}`)
  }
})

test('in the bend the rate is that of the machine-repair model', () => {
  // Erlang's closed form for M customers, think time Z, one server of mean S (exponential times).
  const [customers, elsewhere, service] = [12, 9, 1]
  const weights = [1]
  for (let busy = 1; busy <= customers; busy++) {
    weights.push((weights.at(-1)! * (customers - busy + 1) * service) / elsewhere)
  }
  const idle = 1 / weights.reduce((total, weight) => total + weight, 0)
  near(throughput({ consumers: customers, cycleMs: 10, most: 1_000 }), (1 - idle) * 1_000)
})

test('errors cost deliveries, and a limit bounds them', () => {
  near(deliveriesPerMessage(0.5, 1_000), 2)
  near(deliveriesPerMessage(0.5, 3), 1.75)
  near(deliveriesPerMessage(0, 21), 1)
  near(deliveriesPerMessage(0.9, 1), 1)
  const said = answer(COEFFICIENTS, QUESTION)
  near(said.messagesPerSecond * said.deliveriesPerMessage, said.deliveriesPerSecond)
  near(said.deadLetters, 0.2 ** 21)
})

test('memory and storage time are proportional to what waits', () => {
  const said = answer(COEFFICIENTS, QUESTION)
  near(said.memoryBytes, 17_000_000)
  near(said.storeMs, 1_005)
})

test('the back-off that an average message waits for is that of the failures it has', () => {
  const said = answer(COEFFICIENTS, { ...QUESTION, errors: 0.5, deliveriesMax: 3 })
  near(said.backOffMs, 0.5 * 750 + 0.25 * 1_500)
})

test('what cannot be is refused', () => {
  assert.throws(() => answer(COEFFICIENTS, { ...QUESTION, errors: 1 }), /below 1/)
  assert.throws(() => answer(COEFFICIENTS, { ...QUESTION, consumers: 0 }), /consumers/)
})

function near(value: number, expected: number): void {
  assert.ok(Math.abs(value / expected - 1) < 1e-9, `${value} is not ${expected}`)
}
