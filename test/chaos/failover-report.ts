/** What primaries that went cost: messages lost, doubled or out of order, and waiting. */

/** How a primary goes: SIGKILL; SIGSTOP; none of its group reaches it, while clients do. */
export type Kind = 'killed' | 'stopped' | 'cut off'

/** A primary that went. Moments are ms of the monotonic clock. */
export interface Fault {
  readonly kind: Kind
  readonly at: number
  /** When another served in its place. */
  readonly servedAt: number
  /** When every primary had a replica again. */
  readonly safeAt: number
}

/** What was published to a queue, by number, and what came out. */
export class Line {
  readonly durability: string
  /** When each was confirmed, ms of the monotonic clock. */
  readonly confirmedAt: number[] = []
  readonly #seen = new Set<number>()
  /** Its messages are large for a while. */
  stressed = false
  /** Deliveries of something seen before that do not say so. */
  twice = 0
  /** First deliveries that came before an earlier message. */
  disordered = 0
  #last = -1

  constructor(durability: string) {
    this.durability = durability
  }

  see(number: number, redelivered: boolean): void {
    if (this.#seen.has(number)) {
      if (!redelivered) this.twice++
      return
    }
    this.#seen.add(number)
    if (number < this.#last && !redelivered) this.disordered++
    this.#last = Math.max(this.#last, number)
  }

  /** When those were confirmed that never came out. */
  lost(): number[] {
    return this.confirmedAt.filter((_, number) => !this.#seen.has(number))
  }

  /** The longest time between two confirms, of those that end in this span, ms. */
  gapMs(from: number, to: number): number {
    let longest = 0
    for (const [index, at] of this.confirmedAt.entries()) {
      if (at < from || at > to) continue
      longest = Math.max(longest, at - (this.confirmedAt[index - 1] ?? at))
    }
    return longest
  }
}

export type Figures = ReturnType<typeof figuresOf>

/** Of all the lines that were promised the same. */
export function figuresOf(durability: string, lines: Iterable<Line>, faults: readonly Fault[]) {
  const some = [...lines].filter((line) => line.durability === durability)
  const sum = (of: (line: Line) => number) => some.reduce((all, line) => all + of(line), 0)
  const lost = some.flatMap((line) => line.lost())
  const gaps = faults.map(({ at, servedAt, safeAt }, index) => {
    const next = faults[index + 1]?.at ?? Number.POSITIVE_INFINITY
    const gapMs = Math.max(...some.map((line) => line.gapMs(at, next)))
    const failoverMs = (durability === 'replicas=1' ? safeAt : servedAt) - at
    return { gapMs, failoverMs, beyondMs: gapMs - failoverMs }
  })
  return {
    durability,
    confirmed: sum(({ confirmedAt }) => confirmedAt.length),
    lost: lost.length,
    ...windows(lost, faults),
    twice: sum(({ twice }) => twice),
    disordered: sum(({ disordered }) => disordered),
    failoverMs: longest(gaps.map(({ failoverMs }) => failoverMs)),
    gapMs: longest(gaps.map(({ gapMs }) => gapMs)),
    /** How much longer than the failover of its fault a publisher waited. */
    beyondMs: longest(gaps.map(({ beyondMs }) => beyondMs)),
  }
}

const longest = (all: readonly number[]) => Math.round(Math.max(0, ...all))

/** How long before the nearest fault, and how long after it, those were confirmed that are lost. */
function windows(lost: readonly number[], faults: readonly Fault[]) {
  const distances = lost.map((confirmedAt) => {
    const all = faults.map(({ at }) => confirmedAt - at)
    return all.sort((a, b) => Math.abs(a) - Math.abs(b))[0] ?? 0
  })
  return { beforeMs: longest(distances.map((ms) => -ms)), afterMs: longest(distances) }
}
