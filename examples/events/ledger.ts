/**
 * The accounting: what was in the file, what became of each event in each queue, and whether the
 * broker's own counts say the same. Reads reports, asks nobody.
 */
import type { Queue } from './api.ts'
import type { Report } from './consumer.ts'

export interface Row {
  readonly queue: string
  /** Events of the file that belong there. */
  readonly expected: number
  /** First deliveries, and further ones. */
  readonly delivered: number
  readonly redelivered: number
  /** Events acknowledged. */
  readonly acked: number
}

interface Entry {
  deliveries: number
  acks: number
}

const EXAMPLES_MAX = 5

export class Ledger {
  readonly #queues: ReadonlyMap<string, Map<string, Entry>>
  readonly #wrong: string[] = []
  #acked = 0
  #expected = 0

  /** @param expected the ids of the events that belong in each queue. */
  constructor(expected: ReadonlyMap<string, readonly string[]>) {
    this.#queues = new Map(
      [...expected].map(([queue, ids]) => [
        queue,
        new Map(ids.map((id) => [id, { deliveries: 0, acks: 0 }])),
      ]),
    )
    for (const entries of this.#queues.values()) this.#expected += entries.size
  }

  /** Events acknowledged so far, each once a queue. */
  get acked(): number {
    return this.#acked
  }

  /** Events to be acknowledged in all, each once a queue. */
  get expected(): number {
    return this.#expected
  }

  note(consumer: string, report: Report): void {
    if (report.kind === 'leased') {
      const flagged = new Set(report.redelivered)
      for (const id of report.ids) this.#delivered(consumer, report.queue, id, flagged.has(id))
    } else if (report.kind === 'acked') {
      for (const id of report.ids) {
        const entry = this.#entry(report.queue, id)
        if (entry && entry.acks++ === 0) this.#acked++
      }
    }
  }

  rows(): Row[] {
    return [...this.#queues].map(([queue, entries]) => {
      const all = [...entries.values()]
      const delivered = all.filter(({ deliveries }) => deliveries > 0).length
      const deliveries = all.reduce((sum, entry) => sum + entry.deliveries, 0)
      return {
        queue,
        expected: entries.size,
        delivered,
        redelivered: deliveries - delivered,
        acked: all.filter(({ acks }) => acks > 0).length,
      }
    })
  }

  /** What is not as it should be, a sentence each; none when every event is accounted for. */
  faults(stored: ReadonlyMap<string, Queue>): string[] {
    const faults = [...this.#wrong]
    for (const [queue, entries] of this.#queues) {
      const ids = (wrong: (entry: Entry) => boolean) =>
        [...entries].filter(([, entry]) => wrong(entry)).map(([id]) => id)
      faults.push(
        ...listed(
          `${queue}: never acknowledged`,
          ids(({ acks }) => acks === 0),
        ),
        ...listed(
          `${queue}: acknowledged twice`,
          ids(({ acks }) => acks > 1),
        ),
      )
    }
    for (const row of this.rows()) faults.push(...differences(row, stored.get(row.queue)))
    return faults
  }

  #delivered(consumer: string, queue: string, id: string, flagged: boolean): void {
    const entry = this.#entry(queue, id)
    if (entry && entry.deliveries++ > 0 && !flagged) {
      this.#wrong.push(`${queue}: ${id} came again, to ${consumer}, and was not marked redelivered`)
    }
  }

  #entry(queue: string, id: string): Entry | undefined {
    const entry = this.#queues.get(queue)?.get(id)
    if (!entry) this.#wrong.push(`${queue}: ${id} does not belong there`)
    return entry
  }
}

function listed(what: string, ids: readonly string[]): string[] {
  if (ids.length === 0) return []
  const more = ids.length > EXAMPLES_MAX ? ', ...' : ''
  return [`${what}: ${ids.length} (${ids.slice(0, EXAMPLES_MAX).join(', ')}${more})`]
}

/** Where the broker counted something else than the consumers saw. */
function differences(row: Row, stored: Queue | undefined): string[] {
  if (!stored) return [`${row.queue}: the broker does not have this queue`]
  const { messages, totals } = stored
  const pairs: readonly (readonly [what: string, broker: number, here: number])[] = [
    ['stored', totals.published, row.expected],
    ['delivered', totals.delivered, row.delivered],
    ['redelivered', totals.redelivered, row.redelivered],
    ['acknowledged', totals.acked, row.acked],
    ['left', messages.ready + messages.unacked + messages.delayed, 0],
  ]
  return pairs
    .filter(([, broker, here]) => broker !== here)
    .map(([what, broker, here]) => `${row.queue}: ${what} is ${broker} at the broker, ${here} here`)
}
