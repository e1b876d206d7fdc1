/**
 * Does to a queue in Redis what a random step says, and tells the model (queue-model.ts) what must
 * have come of it. For queue-model.redis.test.ts.
 */
import assert from 'node:assert/strict'
import type { Appended } from '@sluice/core'
import type { TestMessage } from '@sluice/testkit'
import type { LeaseSettlement, QueueStore, Store } from './index.ts'
import { judge } from './invariant.ts'
import { type Inventory, readInventory } from './inventory.ts'
import { type ModelMessage, QueueModel } from './queue-model.ts'
import type { Of, Step } from './queue-model-step.ts'
import type { QueueSettings } from './settings.ts'
import { HOUR_MS, pass, publish, recordOf } from './test-queue.ts'

/** What a step leaves to Redis, and whether it used a short duration. */
interface Free {
  readonly soon?: boolean
  readonly expire?: boolean
  readonly drop?: boolean
}

const BODY_BYTES = 6
const durationMs = (soon: boolean) => (soon ? 1 : HOUR_MS)
const ttlMsOf = { none: -1, soon: 1, long: HOUR_MS } as const
const delayMsOf = { none: 0, soon: 1, long: HOUR_MS } as const
const chosen = <T>(items: readonly T[], mask: number): T[] =>
  items.filter((_, index) => ((mask >> (index % 16)) & 1) === 1)

export class QueueRun {
  readonly model: QueueModel
  readonly #stores: Store[]
  readonly #open: () => Promise<Store>
  readonly #queueOf: (store: Store) => QueueStore
  /** As of the end of the last step. */
  #found!: Inventory
  /** Records of a batch that were acknowledged before the rest, by 'level:id'. */
  readonly #settledPartly = new Map<string, number[]>()

  /** @param stores two; one that dies is replaced in place by one that `open` gives. */
  constructor(
    settings: QueueSettings,
    queueOf: (store: Store) => QueueStore,
    stores: Store[],
    open: () => Promise<Store>,
  ) {
    this.model = new QueueModel(settings, recordOf({ body: '0'.repeat(BODY_BYTES) }).length - 4)
    this.#queueOf = queueOf
    this.#stores = stores
    this.#open = open
  }

  /** Makes the queue and sees that it is empty. */
  async start(): Promise<void> {
    assert.ok(await this.#queue(0).create())
    await this.#check({})
  }

  async step(step: Step): Promise<void> {
    await this.#check(await this.#do(step))
  }

  /**
   * Takes everything back and consumes it: then nothing is ready but what waits behind a delayed
   * message of its key, and no expired message is left.
   */
  async finish(): Promise<void> {
    await this.step({ step: 'recover', by: 0, mask: 0 })
    await this.step({ step: 'recover', by: 1, mask: 0 })
    await this.step({ step: 'settle', by: 0, mask: -1, outcome: 'ack', soon: false })
    let before: number
    do {
      before = this.model.in('gone', 'dead').length
      await this.step({ step: 'lease', by: 0, max: 100, soon: false })
      await this.step({ step: 'settle', by: 1, mask: -1, outcome: 'ack', soon: false })
      await this.step({ step: 'sweep', by: 1 })
    } while (this.model.in('gone', 'dead').length > before)
    const blocked = new Set(
      [...this.#heads()].filter(([, { place }]) => place === 'delayed').map(([key]) => key),
    )
    const left = this.model.in('ready').filter(({ key }) => !blocked.has(key))
    assert.deepEqual(left, [], 'messages that nobody was given')
  }

  #queue(by: number): QueueStore {
    return this.#queueOf(this.#stores[by]!)
  }

  #slot(by: number): string {
    return this.#stores[by]!.slot.name
  }

  async #check({ soon, ...free }: Free): Promise<void> {
    const [store] = this.#stores as [Store]
    if (soon) await pass(store, 1)
    const queue = this.#queue(0)
    this.#found = await readInventory(store.redis, queue.base)
    this.model.compare(this.#found, free)
    assert.deepEqual(judge(this.#found, queue), [], 'the invariant')
  }

  /** The head of each ordering key, as the model knows the message. */
  #heads(): Map<string, ModelMessage> {
    const byRef = new Map(this.model.messages.map((message) => [message.ref, message]))
    const heads = [...this.#found.heads].map(([key, ref]) => [key, byRef.get(ref)!] as const)
    return new Map(heads)
  }

  #do(step: Step): Promise<Free> {
    switch (step.step) {
      case 'append':
        return this.#append(step)
      case 'take':
        return this.#take(step)
      case 'lease':
        return this.#lease(step)
      case 'ackHeld':
        return this.#ackHeld(step)
      case 'ackPartly':
        return this.#ackPartly(step)
      case 'giveBack':
        return this.#giveBack(step)
      case 'settle':
        return this.#settle(step)
      case 'settleStale':
        return this.#settleStale(step)
      case 'recover':
        return this.#recover(step)
      case 'dieAndReclaim':
        return this.#dieAndReclaim(step)
      case 'sweep':
        return this.#sweep(step)
      case 'purge':
        return this.#purge(step)
      case 'claimAndBury':
        return this.#claimAndBury(step)
      case 'pick':
        return this.#pick(step)
      case 'peek':
        return this.#peek(step)
    }
  }

  async #append({ by, messages }: Of<'append'>): Promise<Free> {
    const expected: Appended[] = []
    const given: TestMessage[] = []
    for (const { level, key, ttl, delay, id } of messages) {
      const message = this.model.compose({ level, key, ttl })
      expected.push(this.model.publish(message, delay, id))
      given.push({
        body: this.model.body(message),
        priority: level,
        orderingKey: key,
        ttlMs: ttlMsOf[ttl],
        delayMs: delayMsOf[delay],
        dedupId: id,
      })
    }
    assert.deepEqual(await publish(this.#queue(by), ...given), expected)
    const soon = messages.some(({ ttl, delay }) => ttl === 'soon' || delay === 'soon')
    return { soon, drop: true }
  }

  async #take({ by, credit }: Of<'take'>): Promise<Free> {
    const { model } = this
    model.release()
    const deliverable = model.deliverable(this.#heads())
    const taken = await this.#queue(by).take(credit, 'never')
    const { batches, messages } = taken
    const slot = this.#slot(by)
    const handed = [
      ...batches.flatMap(({ level, id, records }) =>
        records.map(({ body }, index) => ({
          message: model.byBody(body.toString()),
          holder: { slot, batch: { level, id, index } },
        })),
      ),
      ...messages.map(({ record, acquired, failed }) => {
        const message = model.byBody(record.body.toString())
        assert.deepEqual([acquired, failed], [message.acquired + 1, message.failed])
        return { message, holder: { slot } }
      }),
    ]
    const all = handed.map(({ message }) => message)
    model.checkOrder(all, deliverable, 'highest level')
    assert.ok(all.length <= credit, `${all.length} for a credit of ${credit}`)
    if (this.#isShallow()) {
      assert.ok(all.length > 0 || deliverable.length === 0, 'nothing, and there was something')
    }
    for (const [index, { message, holder }] of handed.entries()) {
      model.hold(message, { ...holder, ordinal: taken.handed - handed.length + 1 + index })
    }
    return { expire: true }
  }

  async #lease({ by, max, soon }: Of<'lease'>): Promise<Free> {
    const { model } = this
    model.release()
    const deliverable = model.deliverable(this.#heads())
    const leased = await this.#queue(by).lease({
      max,
      leaseMs: durationMs(soon),
      waitMs: 0,
      consumer: 'tester',
    })
    const handed = leased.map(({ record }) => model.byBody(record.body.toString()))
    model.checkOrder(handed, deliverable, 'highest level')
    if (this.#isShallow()) {
      assert.equal(handed.length, Math.min(max, model.available(deliverable)), 'leased')
    }
    for (const [index, { token, deliveryCount, failedCount }] of leased.entries()) {
      const message = handed[index]!
      assert.deepEqual([deliveryCount, failedCount], [message.acquired + 1, message.failed])
      model.hold(message, { token, soon })
    }
    return { soon, expire: true }
  }

  /** One take looks through all there is; behind more batches it may ask to be called again. */
  #isShallow(): boolean {
    return this.#found.entries.filter(({ state }) => state === 'unread').length <= 16
  }

  /** What a slot holds as whole batches, in the order of 'level:id'. */
  #batches(by: number): { name: string; level: number; id: string; messages: ModelMessage[] }[] {
    const batches = new Map<string, ModelMessage[]>()
    for (const message of this.model.heldBy(this.#slot(by))) {
      if (!message.batch) continue
      const name = `${message.batch.level}:${message.batch.id}`
      batches.set(name, [...(batches.get(name) ?? []), message])
    }
    return [...batches].map(([name, messages]) => ({ name, ...messages[0]!.batch!, messages }))
  }

  async #ackHeld({ by, pick, mask }: Of<'ackHeld'>): Promise<Free> {
    const batches = this.#batches(by)
    const level = batches[pick % Math.max(1, batches.length)]?.level ?? 0
    const some = batches.filter((batch) => batch.level === level && pick % 3 !== 0)
    const singles = chosen(
      this.model.heldBy(this.#slot(by)).filter(({ batch }) => !batch),
      mask,
    )
    const counts = new Map(
      this.#found.entries.map((entry) => [`${entry.level}:${entry.id}`, entry]),
    )
    const letters = await this.#queue(by).settleHeld(
      level,
      some.map(({ name, id }) => ({ id, count: counts.get(name)!.count })),
      singles.map(({ ref }) => ref),
    )
    assert.equal(letters, 's'.repeat(some.length + singles.length))
    for (const { messages } of some)
      for (const message of messages) this.model.end(message, 'acked')
    for (const message of singles) this.model.end(message, 'acked')
    return {}
  }

  async #ackPartly({ by, pick, mask }: Of<'ackPartly'>): Promise<Free> {
    const batches = this.#batches(by)
    const batch = batches[pick % Math.max(1, batches.length)]
    const some = chosen(batch?.messages ?? [], mask)
    if (!batch || some.length === 0 || some.length === batch.messages.length) return {}
    const indexes = [
      ...(this.#settledPartly.get(batch.name) ?? []),
      ...some.map((message) => message.batch!.index),
    ]
    this.#settledPartly.set(batch.name, indexes)
    const entry = this.#found.entries.find(({ level, id }) => `${level}:${id}` === batch.name)!
    const bitmap = Buffer.alloc(Math.ceil(entry.count / 8))
    for (const index of indexes) bitmap[index >> 3]! |= 1 << (index & 7)
    assert.equal(await this.#queue(by).settlePartly(batch.level, batch.id, bitmap), 's')
    for (const message of some) this.model.end(message, 'acked')
    return {}
  }

  async #giveBack({ by, mask, action, soon, failed }: Of<'giveBack'>): Promise<Free> {
    const some = chosen(this.model.heldBy(this.#slot(by)), mask)
    if (action === 'unseen') some.sort((a, b) => b.ordinal - a.ordinal)
    const failure = failed && action !== 'unseen' ? '+it broke' : '-'
    const letters = await this.#queue(by).returnHeld(
      some.map(({ batch, ref, ordinal }) => ({
        ...(batch ? { place: `${batch.level}:${batch.id}`, ref: batch.index } : { place: '', ref }),
        action,
        delayMs: action === 'unseen' ? ordinal : durationMs(soon),
        failure,
      })),
    )
    const limit = this.model.settings.deliveryLimit
    for (const [index, message] of some.entries()) {
      const exceeds = failure !== '-' && limit >= 0 && message.failed + 1 > limit
      const letter = action === 'dead' || exceeds ? 'l' : action === 'due' ? 'd' : 'r'
      assert.equal(letters[index], letter)
      if (action === 'unseen' && letter === 'r') this.model.unsee(message)
      else if (failed && letter === 'r') this.model.fail(message)
      else if (letter === 'r') this.model.requeue(message)
      else {
        message.failed += failed ? 1 : 0
        if (letter === 'd') this.model.delay(message, soon)
        else this.model.die(message, action === 'dead' ? 'rejected' : 'delivery_limit')
      }
    }
    assert.equal(letters.length, some.length)
    return { soon: soon && action === 'due', drop: letters.includes('r') }
  }

  async #settle({ by, mask, outcome, soon }: Of<'settle' | 'settleStale'>): Promise<Free> {
    const some = mask === -1 ? this.model.leased() : chosen(this.model.leased(), mask)
    const outcomes = await this.#queue(by).settle(
      some.map(({ token }) => settlement(token, outcome, soon)),
    )
    const limit = this.model.settings.deliveryLimit
    for (const [index, message] of some.entries()) {
      const dies = outcome === 'retry' && limit >= 0 && message.failed + 1 > limit
      assert.equal(outcomes[index], dies ? 'dead-lettered' : SETTLED[outcome])
      if (outcome === 'ack') this.model.end(message, 'acked')
      if (outcome === 'release') this.model.requeue(message)
      if (outcome === 'extend') message.soon = soon
      if (dies) this.model.fail(message)
      else if (outcome === 'retry') {
        message.failed++
        this.model.delay(message, soon)
      }
      if (outcome === 'dead-letter') {
        message.failed++
        this.model.die(message, 'rejected')
      }
    }
    return { soon, drop: outcome === 'release' && some.length > 0 }
  }

  async #settleStale({ by, mask, outcome, soon }: Of<'settle' | 'settleStale'>): Promise<Free> {
    const tokens = chosen(this.model.staleTokens, mask)
    const outcomes = await this.#queue(by).settle(
      tokens.map((token) => settlement(token, outcome, soon)),
    )
    for (const each of outcomes) assert.equal(each, 'stale')
    return {}
  }

  async #recover({ by, mask }: Of<'recover'>): Promise<Free> {
    const batches = this.#batches(by)
    const singles = this.model.heldBy(this.#slot(by)).filter(({ batch }) => !batch)
    const units = [
      ...batches.map(({ name, messages }) => ({ name, messages })),
      ...singles.map((message) => ({ name: message.ref, messages: [message] })),
    ]
    const keep = chosen(units, mask)
    await this.#queue(by).recover(keep.map(({ name }) => name))
    const back = units.filter((unit) => !keep.includes(unit)).flatMap(({ messages }) => messages)
    for (const message of back) this.model.requeue(message)
    return { drop: back.length > 0 }
  }

  /** A process dies; the other one takes back what it held; it cannot settle that any more. */
  async #dieAndReclaim({ by }: Of<'dieAndReclaim' | 'sweep' | 'purge'>): Promise<Free> {
    const store = this.#stores[by]!
    const slot = this.#slot(by)
    const batches = this.#batches(by)
    const held = this.model.heldBy(slot).map((message) => ({ ...message }))
    await store.redis.del(`sluice:{slots}:alive:${slot}`)
    while ((await this.#queue(1 - by).reclaim(slot, { dead: true })).more);
    const back = this.model.heldBy(slot)
    for (const message of back) this.model.fail(message)
    const drop = back.some(({ place }) => place === 'ready')

    const queue = this.#queue(by)
    for (const { level, id } of batches) {
      assert.equal(await queue.settleHeld(level, [{ id, count: 1 }], []), 'x')
      assert.equal(await queue.settlePartly(level, id, Buffer.from([1])), 'x')
    }
    const returns = held.map(({ batch, ref }) => ({
      ...(batch ? { place: `${batch.level}:${batch.id}`, ref: batch.index } : { place: '', ref }),
      ...({ action: 'ready', delayMs: 0, failure: '-' } as const),
    }))
    assert.equal(await queue.returnHeld(returns), 'x'.repeat(held.length))
    const refs = held.map(({ ref }) => ref)
    assert.equal(await queue.settleHeld(0, [], refs), 'x'.repeat(held.length))
    await store.close()
    this.#stores[by] = await this.#open()
    return { drop }
  }

  async #sweep({ by }: Of<'dieAndReclaim' | 'sweep' | 'purge'>): Promise<Free> {
    this.model.release()
    const swept = await this.#queue(by).sweep()
    assert.equal(swept.kind, 'ok')
    return { expire: true, drop: true }
  }

  async #purge({ by }: Of<'dieAndReclaim' | 'sweep' | 'purge'>): Promise<Free> {
    const ready = this.model.in('ready')
    assert.equal(await this.#queue(by).purge(), ready.length)
    for (const message of ready) this.model.end(message, 'purged')
    return {}
  }

  async #claimAndBury({ by, max, mask, soon }: Of<'claimAndBury'>): Promise<Free> {
    const queue = this.#queue(by)
    const unclaimed = this.model.in('dead').filter(({ claimed }) => !claimed)
    const letters = await queue.claimDead(max, durationMs(soon))
    assert.equal(letters.length, Math.min(max, unclaimed.length))
    const claimed = letters.map(({ record, acquired, failed, reason }) => {
      const message = this.model.byBody(record.body.toString())
      assert.ok(unclaimed.includes(message), 'a letter that another reaper has')
      assert.deepEqual(
        [acquired, failed, reason],
        [message.acquired, message.failed, message.reason],
      )
      message.claimed = !soon
      return message
    })
    const buried = chosen(claimed, mask)
    const counter = mask % 2 === 0 ? 'deadLettered' : 'dropped'
    const gone = this.model.in('gone').filter(({ ref }) => ref !== '')
    const refs = [...buried, ...gone.slice(0, 2)].map(({ ref }) => ref)
    assert.equal(await queue.bury(refs, counter), buried.length)
    for (const message of buried) this.model.end(message, counter)
    return { soon }
  }

  async #pick({ by, pick, soon }: Of<'pick'>): Promise<Free> {
    const seen = this.model.messages.filter(({ ref }) => ref !== '')
    const message = seen[pick % Math.max(1, seen.length)]
    if (!message) return {}
    const picked = await this.#queue(by).pick(message.ref, durationMs(soon), 'tester')
    if (message.place !== 'ready' && message.place !== 'delayed') {
      assert.equal(picked, undefined)
      return {}
    }
    if (message.ttl === 'soon') {
      assert.equal(picked, undefined, 'an expired message')
      this.model.die(message, 'expired')
      return {}
    }
    assert.equal(picked?.record.body.toString(), this.model.body(message))
    assert.deepEqual(
      [picked.deliveryCount, picked.failedCount],
      [message.acquired + 1, message.failed],
    )
    message.overtakes = true
    this.model.hold(message, { token: picked.token, soon })
    return { soon }
  }

  async #peek({ by, max }: Of<'peek'>): Promise<Free> {
    const places = { ready: 'ready', delayed: 'delayed', held: 'held', dead: 'dead' } as const
    for (const state of Object.values(places)) {
      const bodies: string[] = []
      let after = ''
      do {
        const { cursor, messages } = await this.#queue(by).peek(state, after, max)
        bodies.push(...messages.map(({ record }) => record.body.toString()))
        after = cursor
      } while (after !== '')
      const expected = this.model.in(state).filter(({ batch }) => !batch)
      assert.deepEqual(
        bodies.sort(),
        expected.map((message) => this.model.body(message)),
        state,
      )
    }
    return {}
  }
}

const SETTLED = {
  ack: 'settled',
  retry: 'retried',
  release: 'released',
  'dead-letter': 'dead-lettered',
  extend: 'extended',
} as const

function settlement(
  token: string,
  outcome: LeaseSettlement['outcome'],
  soon: boolean,
): LeaseSettlement {
  switch (outcome) {
    case 'retry':
      return { token, outcome, delayMs: durationMs(soon), reason: 'it broke' }
    case 'dead-letter':
      return { token, outcome, reason: 'no good' }
    case 'extend':
      return { token, outcome, leaseMs: durationMs(soon) }
    default:
      return { token, outcome }
  }
}
