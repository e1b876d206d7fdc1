/** The model held against a case that no line was fitted to: first said, then measured. */
import { random } from '@sluice/testkit'
import { consumeAll } from './consumers.ts'
import { type Answer, answer, type Coefficients, type Question } from './model.ts'
import { dropQueue, type Evidence, fill, freshQueue, type Rig } from './rig.ts'

const QUEUE = 'capacity-check'
const SEED = 13
const DELIVERY_LIMIT = 20

export interface Check {
  readonly question: Question
  readonly expected: Answer
  readonly measured: {
    readonly messagesPerSecond: number
    readonly drainMs: number
    readonly meanDelayMs: number
    readonly deliveriesPerMessage: number
    readonly memoryBytes: number
    readonly storeMs: number
  }
  /** A machine that other work took over meanwhile is not the one that was measured. */
  readonly evidence: Evidence
  /** How far off the model was, as a share of what was measured. */
  readonly error: Readonly<Record<'rate' | 'deliveries' | 'delay' | 'memory', number>>
}

export async function measureCheck(rig: Rig, coefficients: Coefficients): Promise<Check> {
  const question: Question = {
    messages: rig.short ? 1_000 : 10_000,
    ...{ consumers: 6, errors: 0.15, workMs: 7, bodyBytes: 700 },
    deliveriesMax: DELIVERY_LIMIT + 1,
  }
  const expected = answer(coefficients, question)
  rig.say('the model: a case that no line was fitted to')
  const { measured, evidence } = await measure(rig, question)
  const off = (what: keyof Check['measured']) => (expected[what] - measured[what]) / measured[what]
  const error = {
    rate: off('messagesPerSecond'),
    deliveries: off('deliveriesPerMessage'),
    delay: off('meanDelayMs'),
    memory: off('memoryBytes'),
  }
  return { question, expected, measured, evidence, error }
}

async function measure(
  rig: Rig,
  question: Question,
): Promise<Pick<Check, 'measured' | 'evidence'>> {
  const { messages, consumers, errors, workMs, bodyBytes } = question
  await freshQueue(rig, QUEUE, { 'x-delivery-limit': DELIVERY_LIMIT })
  const before = await rig.dataBytes()
  const fromMs = performance.now()
  await fill(rig, QUEUE, messages, bodyBytes)
  const storeMs = performance.now() - fromMs
  const memoryBytes = (await rig.dataBytes()) - before
  const chance = random(SEED)
  const begunMs = performance.now()
  let waitedMs = 0
  const consumed = await consumeAll(
    rig,
    QUEUE,
    {
      consumers,
      workMs: () => workMs,
      fails() {
        const fails = chance.chance(errors)
        if (!fails) waitedMs += performance.now() - begunMs
        return fails
      },
    },
    messages,
  )
  await dropQueue(rig, QUEUE)
  const measured = {
    messagesPerSecond: consumed.left / consumed.seconds,
    drainMs: consumed.seconds * 1_000,
    meanDelayMs: waitedMs / messages,
    deliveriesPerMessage: consumed.deliveries / consumed.left,
    ...{ memoryBytes, storeMs },
  }
  return { measured, evidence: consumed.evidence }
}
