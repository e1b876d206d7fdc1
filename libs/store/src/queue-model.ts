/**
 * A queue as it should be, in memory: the oracle of queue-model.redis.test.ts.
 *
 * It knows no logs, batches or scripts, only messages and where each must be. What a queue is free
 * to choose (how many messages a slot gets, when an expired one is found) the model checks against
 * the rules and then takes over from the real one. Durations come in two kinds: soon, over before
 * the next step begins, and long, never over.
 */
import assert from 'node:assert/strict'
import type { Inventory } from './inventory.ts'
import type { QueueSettings } from './settings.ts'

export type Duration = 'none' | 'soon' | 'long'
export type Place = 'ready' | 'delayed' | 'held' | 'dead' | 'gone'

export interface ModelMessage {
  /** Counts what was published; also its body. */
  readonly position: number
  readonly level: number
  readonly key: string
  readonly ttl: Duration
  /** Its position in Redis, once it was seen there. */
  ref: string
  place: Place
  /** delayed: due before the next step. held: its lease lapses before the next step. */
  soon: boolean
  /** Was published with a delay, or picked: it may overtake others. */
  overtakes: boolean
  /** What settles it while it is leased. */
  token: string
  /** The slot that holds it; '' = none. */
  slot: string
  /** The batch it is held in; undefined = on its own. */
  batch: { readonly level: number; readonly id: string; readonly index: number } | undefined
  /** Which of the queue's deliveries its last one was, in a take. */
  ordinal: number
  acquired: number
  failed: number
  reason: string
  /** A reaper has claimed it for long. */
  claimed: boolean
}

const COUNTERS = [
  'published',
  'delivered',
  'redelivered',
  'acked',
  'dropped',
  'deadLettered',
  'purged',
] as const
type Counter = (typeof COUNTERS)[number]

const bodyOf = (position: number) => String(position).padStart(6, '0')

export class QueueModel {
  readonly settings: QueueSettings
  readonly messages: ModelMessage[] = []
  readonly counters: Record<Counter, number> = {
    published: 0,
    delivered: 0,
    redelivered: 0,
    acked: 0,
    dropped: 0,
    deadLettered: 0,
    purged: 0,
  }
  /** Tokens of leases that are over. */
  readonly staleTokens: string[] = []
  readonly #ids = new Set<string>()
  readonly #bytesEach: number

  /** @param bytesEach size of every record, where the queue has a limit in bytes. */
  constructor(settings: QueueSettings, bytesEach: number) {
    this.settings = settings
    this.#bytesEach = bytesEach
  }

  body(message: ModelMessage): string {
    return bodyOf(message.position)
  }

  in(...places: Place[]): ModelMessage[] {
    return this.messages.filter(({ place }) => places.includes(place))
  }

  byBody(body: string): ModelMessage {
    const message = this.messages[Number(body)]
    assert.ok(message, `nobody published ${body}`)
    return message
  }

  heldBy(slot: string): ModelMessage[] {
    return this.in('held').filter((message) => message.slot === slot)
  }

  leased(): ModelMessage[] {
    return this.in('held').filter(({ slot }) => slot === '')
  }

  /** A new message, nowhere yet; `publish` says where it goes. */
  compose(given: Pick<ModelMessage, 'level' | 'key' | 'ttl'>): ModelMessage {
    const message: ModelMessage = {
      ...given,
      position: this.messages.length,
      ref: '',
      place: 'gone',
      soon: false,
      overtakes: false,
      token: '',
      slot: '',
      batch: undefined,
      ordinal: 0,
      acquired: 0,
      failed: 0,
      reason: '',
      claimed: false,
    }
    this.messages.push(message)
    return message
  }

  /** What a publish of a composed message must be answered. */
  publish(message: ModelMessage, delay: Duration, id: string): 'stored' | 'duplicate' | 'full' {
    if (id !== '' && this.#ids.has(id)) return 'duplicate'
    if (delay === 'none' && this.settings.overflow !== 'drop-head' && this.#over(1) > 0) {
      if (this.settings.overflow === 'reject-publish-dlx') this.#refuse(message)
      return 'full'
    }
    if (id !== '') this.#ids.add(id)
    this.counters.published++
    message.place = delay === 'none' ? 'ready' : 'delayed'
    message.overtakes = delay !== 'none'
    message.soon = delay === 'soon'
    return 'stored'
  }

  /** Refused messages go to the dead letter exchange where there is one. */
  #refuse(message: ModelMessage): void {
    if (this.settings.deadLetters !== 'exchange') return
    this.counters.published++
    message.place = 'dead'
    message.reason = 'maxlen'
  }

  /** How many ready messages are too many, `more` than there are counted in. */
  #over(more: number): number {
    const { maxLength, maxBytes } = this.settings
    const ready = this.in('ready').length + more
    const byLength = maxLength < 0 ? 0 : ready - maxLength
    const byBytes = maxBytes < 0 ? 0 : ready - Math.floor(maxBytes / this.#bytesEach)
    return Math.max(0, byLength, byBytes)
  }

  /** Due messages and lapsed leases come back: what every take and sweep begins with. */
  release(): void {
    for (const message of this.in('delayed')) if (message.soon) message.place = 'ready'
    for (const message of this.leased()) if (message.soon) this.fail(message)
  }

  /** A delivery failed: ready again, or dead past the limit. */
  fail(message: ModelMessage): void {
    this.#letGo(message)
    message.failed++
    const { deliveryLimit } = this.settings
    if (deliveryLimit >= 0 && message.failed > deliveryLimit) this.die(message, 'delivery_limit')
    else message.place = 'ready'
  }

  /** Given back by its holder without having failed. */
  requeue(message: ModelMessage): void {
    this.#letGo(message)
    message.place = 'ready'
  }

  /** Given back, and no consumer was shown it; it counts all the same if others came after. */
  unsee(message: ModelMessage): void {
    this.requeue(message)
    if (message.ordinal !== this.counters.delivered + this.counters.redelivered) return
    this.counters[message.acquired > 1 ? 'redelivered' : 'delivered']--
    message.acquired--
  }

  delay(message: ModelMessage, soon: boolean): void {
    this.#letGo(message)
    message.place = 'delayed'
    message.soon = soon
  }

  /** Ends up among the dead letters, or dropped where nobody wants it. */
  die(message: ModelMessage, reason: string): void {
    this.#letGo(message)
    const limit = reason === 'expired' || reason === 'maxlen'
    const { deadLetters } = this.settings
    message.reason = reason
    if (deadLetters === 'none' || (limit && deadLetters === 'queue')) this.end(message, 'dropped')
    else message.place = 'dead'
  }

  end(message: ModelMessage, counter: Exclude<Counter, 'published'>): void {
    this.#letGo(message)
    message.place = 'gone'
    this.counters[counter]++
  }

  hold(message: ModelMessage, holder: Partial<ModelMessage>): void {
    message.place = 'held'
    message.acquired++
    this.counters[message.acquired > 1 ? 'redelivered' : 'delivered']++
    Object.assign(message, { soon: false, slot: '', token: '', batch: undefined }, holder)
  }

  #letGo(message: ModelMessage): void {
    if (message.token !== '') this.staleTokens.push(message.token)
    Object.assign(message, { soon: false, slot: '', token: '', batch: undefined })
  }

  /**
   * Ready messages that may be handed out: alive, nothing of their key out. A key's head goes
   * before the others of its key, also where those have a higher level.
   */
  deliverable(heads: ReadonlyMap<string, ModelMessage>): ModelMessage[] {
    const alive = this.in('ready').filter(({ ttl }) => ttl !== 'soon')
    if (!this.settings.ordered) return alive
    return alive.filter((message) => {
      const head = heads.get(message.key)
      if (message.key === '' || !head || head === message) return true
      return head.place !== 'held' && head.place !== 'delayed' && !alive.includes(head)
    })
  }

  /** How many of the deliverable ones one take could hand out: one a key. */
  available(deliverable: readonly ModelMessage[]): number {
    if (!this.settings.ordered) return deliverable.length
    const keys = new Set(deliverable.map(({ key }) => key).filter((key) => key !== ''))
    return keys.size + deliverable.filter(({ key }) => key === '').length
  }

  /** That exactly these of the deliverable ones were handed out, or dropped, breaks no order. */
  checkOrder(
    chosen: readonly ModelMessage[],
    deliverable: readonly ModelMessage[],
    first: 'highest level' | 'lowest level',
  ): void {
    const { ordered } = this.settings
    for (const message of chosen) {
      const name = this.body(message)
      assert.ok(deliverable.includes(message), `${name} was ${message.place}, and not deliverable`)
      for (const other of deliverable) {
        if (chosen.includes(other)) {
          const both = ordered && other !== message && other.key !== '' && other.key === message.key
          assert.ok(!both, `${name} and ${this.body(other)} of one key are out together`)
          continue
        }
        const behind =
          first === 'highest level' ? other.level > message.level : other.level < message.level
        const ahead = (candidate: ModelMessage) =>
          candidate.key === other.key && (chosen.includes(candidate) || candidate.overtakes)
        const blocked = ordered && other.key !== '' && deliverable.some(ahead)
        assert.ok(blocked || !behind, `${name} went before ${this.body(other)} of another level`)
        const sameLine = other.level === message.level && (!ordered || other.key === message.key)
        const overtaken = sameLine && !other.overtakes && other.position < message.position
        assert.ok(!overtaken || message.overtakes, `${name} overtook ${this.body(other)}`)
      }
    }
  }

  /**
   * Compares with what is in Redis.
   *
   * @param may what the step was free to do: end messages that have expired, drop the oldest.
   */
  compare(found: Inventory, may: { expire?: boolean; drop?: boolean } = {}): void {
    const there = locate(found)
    if (may.drop && this.#isLimited()) this.#takeOverDrops(there)
    for (const message of this.messages) {
      const body = this.body(message)
      const at = there.get(body)
      if (at) message.ref = at.ref
      const place = at?.place ?? 'gone'
      if (may.expire && message.place === 'ready' && message.ttl === 'soon' && place !== 'ready') {
        this.die(message, 'expired')
      }
      assert.equal(place, message.place, `where ${body} is`)
      if (!at) continue
      assert.deepEqual(
        { acquired: at.acquired, failed: at.failed, reason: at.reason, slot: at.slot },
        {
          acquired: message.acquired,
          failed: message.failed,
          reason: message.place === 'dead' ? message.reason : '',
          slot: message.slot,
        },
        `what is known of ${body}`,
      )
      there.delete(body)
    }
    assert.deepEqual([...there.keys()], [], 'messages nobody knows')
    const counted = COUNTERS.map((name) => [name, Number(found.meta.get(name) ?? 0)])
    assert.deepEqual(Object.fromEntries(counted), this.counters)
  }

  /** Such a queue holds nothing that expires. */
  #isLimited(): boolean {
    return this.settings.maxLength >= 0 || this.settings.maxBytes >= 0
  }

  #takeOverDrops(there: ReadonlyMap<string, Located>): void {
    const ready = this.in('ready')
    const dropped = ready.filter((message) => there.get(this.body(message))?.place !== 'ready')
    const surplus = this.settings.overflow === 'drop-head' ? this.#over(0) : 0
    assert.equal(dropped.length, surplus, 'messages dropped from the head')
    this.checkOrder(dropped, ready, 'lowest level')
    for (const message of dropped) this.die(message, 'maxlen')
  }
}

interface Located {
  readonly ref: string
  readonly place: Place
  readonly slot: string
  readonly acquired: number
  readonly failed: number
  readonly reason: string
}

/** Where each message is, by its body. */
function locate(found: Inventory): Map<string, Located> {
  const there = new Map<string, Located>()
  for (const { state, holder, messages } of found.entries) {
    for (const { ref, record } of messages) {
      const held = state === 'pending'
      const counts = { acquired: held ? 1 : 0, failed: 0, reason: '' }
      const place = held ? 'held' : 'ready'
      there.set(record.body.toString(), { ref, place, slot: holder, ...counts })
    }
  }
  for (const { ref, record } of found.side.values()) {
    const score = found.places.held.get(ref)
    const [, acquired, failed, reason] =
      /^(\d+) (\d+) (\S*) /.exec(found.tallies.get(ref) ?? '') ?? []
    there.set(record.body.toString(), {
      ref,
      place: placeOf(found, ref),
      slot: score !== undefined && score < 0 ? `d${-score}` : '',
      acquired: Number(acquired ?? 0),
      failed: Number(failed ?? 0),
      reason: reason ?? '',
    })
  }
  return there
}

function placeOf({ places }: Inventory, ref: string): Place {
  if (places.held.has(ref)) return 'held'
  if (places.due.has(ref)) return 'delayed'
  return places.dead.has(ref) ? 'dead' : 'ready'
}
