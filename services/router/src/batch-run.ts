/**
 * One batch under way: its messages, in order, to the publisher; its outcomes, counted.
 *
 * What a batch holds in memory is bounded by what it has outstanding (`congested`), not by its
 * length. Failures are counted, the first ones listed, and past a bound the batch is given up on.
 */
import { isUtf8 } from 'node:buffer'
import { BrokerError, limits } from '@sluice/core'
import type { Grants } from '@sluice/security'
import {
  carryTrace,
  type Deps,
  Draft,
  draftEvent,
  eventFromJson,
  type PublishCounts,
  readMessage,
  refusalOf,
  requirePublish,
  toMessage,
} from '@sluice/server'
import type { Published, PublishReply, QueueEntry } from '@sluice/topology'
import { z } from 'zod'

export const BatchSummary = z
  .object({
    published: z.int().meta({ description: 'Messages stored, duplicates included.' }),
    duplicates: z.int().meta({ description: 'Those that were stored before.' }),
    unrouted: z.int().meta({ description: 'Messages that no queue wanted; they are not kept.' }),
    failed: z.int(),
    queues: z.record(z.string(), z.int()).meta({
      description: `Messages by queue reached, for the first ${limits.HTTP_BATCH_FAILURES_LISTED_MAX} queues.`,
    }),
    failures: z.array(z.object({ line: z.int(), code: z.string(), detail: z.string() })).meta({
      description:
        `The first ${limits.HTTP_BATCH_FAILURES_LISTED_MAX} failures. line counts from 1: the line ` +
        'of NDJSON, or the position in the array.',
    }),
    stoppedAt: z.int().optional().meta({
      description: 'The batch was given up on after this line: nothing behind it was read.',
    }),
  })
  .meta({ id: 'BatchSummary' })
export type BatchSummary = z.infer<typeof BatchSummary>

interface BatchOptions {
  readonly grants: Grants
  readonly vhost: string
  readonly exchange: string
  /** For messages that have none of their own. */
  readonly routingKey: string
  readonly messageBytesMax: number
  /** Headers of the request, for the trace that its messages belong to. */
  readonly headers: Readonly<Record<string, unknown>>
}

export class BatchRun implements PublishReply {
  readonly #deps: Deps
  readonly #counts: PublishCounts
  readonly #options: BatchOptions
  /** Who waits until at most this many messages are outstanding. */
  #waiting: { readonly most: number; readonly resolve: () => void } | undefined
  /** Messages by where they went; queues of one route are one array. */
  readonly #reached = new Map<readonly QueueEntry[], number>()
  /** Routing keys of mandatory messages under way, by line: what is unroutable has failed. */
  readonly #mandatory = new Map<number, string>()
  readonly #sizes = new Map<number, number>()
  #outstandingBytes = 0
  #published = 0
  #duplicates = 0
  #unrouted = 0
  #failed = 0
  readonly #failures: BatchSummary['failures'] = []

  constructor(deps: Deps, counts: PublishCounts, options: BatchOptions) {
    this.#deps = deps
    this.#counts = counts
    this.#options = options
  }

  /** Too much waits for its confirm: add no more for the moment. */
  get congested(): boolean {
    return (
      this.#sizes.size >= limits.HTTP_BATCH_OUTSTANDING_MAX ||
      this.#outstandingBytes >= limits.HTTP_BATCH_OUTSTANDING_BYTES_MAX
    )
  }

  /** Settles once half of what may be outstanding has its outcome. One waits at a time. */
  room(): Promise<void> {
    return this.#below(limits.HTTP_BATCH_OUTSTANDING_MAX / 2)
  }

  /** Settles once every message has its outcome. */
  settled(): Promise<void> {
    return this.#below(0)
  }

  /** So much has failed that the rest will. */
  get hopeless(): boolean {
    return this.#failed >= limits.HTTP_BATCH_FAILURES_MAX
  }

  get failed(): number {
    return this.#failed
  }

  /** A message as an object with its fields. Never throws: what is wrong with it is counted. */
  addItem(item: unknown, line: number): void {
    try {
      const { draft, body } = readMessage(item, this.#options.routingKey)
      this.#send(draft, body, line)
    } catch (error) {
      this.fail(error, line)
    }
  }

  /** A CloudEvent in its JSON form. Never throws, as addItem. */
  addEvent(event: unknown, line: number): void {
    try {
      const draft = new Draft(this.#options.routingKey)
      this.#send(draft, draftEvent(draft, eventFromJson(event)), line)
    } catch (error) {
      this.fail(error, line)
    }
  }

  /** A message as one line of JSON. */
  addLine(bytes: Buffer, line: number): void {
    let item: unknown
    try {
      if (!isUtf8(bytes)) throw new SyntaxError('not UTF-8')
      item = JSON.parse(bytes.toString())
    } catch (error) {
      const detail = `Not JSON: ${(error as Error).message}`
      this.fail(new BrokerError('invalid_request', detail), line)
      return
    }
    this.addItem(item, line)
  }

  /** A line that is the body of a message. */
  addBody(body: Buffer, contentType: string, line: number): void {
    try {
      const draft = new Draft(this.#options.routingKey)
      draft.properties.contentType = contentType
      this.#send(draft, body, line)
    } catch (error) {
      this.fail(error, line)
    }
  }

  fail(error: unknown, line: number): void {
    this.#failed++
    if (this.#failures.length >= limits.HTTP_BATCH_FAILURES_LISTED_MAX) return
    const known = error instanceof BrokerError
    if (!known) this.#deps.report(error)
    const code = known ? error.code : 'internal_error'
    this.#failures.push({ line, code, detail: known ? error.message : '' })
  }

  published(line: number, outcome: Published, queues: readonly QueueEntry[]): void {
    this.#counts[outcome].value++
    this.#outstandingBytes -= this.#sizes.get(line)!
    this.#sizes.delete(line)
    const { exchange } = this.#options
    const routingKey = this.#mandatory.get(line)
    this.#mandatory.delete(line)
    const refusal = refusalOf(outcome, { exchange, routingKey })
    if (refusal !== undefined) this.fail(refusal, line)
    else if (queues.length === 0) this.#unrouted++
    else {
      this.#published++
      if (outcome === 'duplicate') this.#duplicates++
      this.#reached.set(queues, (this.#reached.get(queues) ?? 0) + 1)
    }
    this.#wake()
  }

  summary(stoppedAt?: number): BatchSummary {
    const queues: Record<string, number> = Object.create(null)
    let listed = 0
    for (const [entries, count] of this.#reached) {
      for (const { definition } of entries) {
        const known = queues[definition.name]
        if (known === undefined && listed++ >= limits.HTTP_BATCH_FAILURES_LISTED_MAX) continue
        queues[definition.name] = (known ?? 0) + count
      }
    }
    return {
      published: this.#published,
      duplicates: this.#duplicates,
      unrouted: this.#unrouted,
      failed: this.#failed,
      queues,
      failures: this.#failures.sort((a, b) => a.line - b.line),
      ...(stoppedAt !== undefined && { stoppedAt }),
    }
  }

  #below(most: number): Promise<void> {
    return new Promise((resolve) => {
      this.#waiting = { most, resolve }
      this.#wake()
    })
  }

  #wake(): void {
    if (this.#waiting === undefined || this.#sizes.size > this.#waiting.most) return
    if (this.#outstandingBytes > limits.HTTP_BATCH_OUTSTANDING_BYTES_MAX / 2) return
    this.#waiting.resolve()
    this.#waiting = undefined
  }

  #send(draft: Draft, body: Buffer, line: number): void {
    const { vhost, exchange, messageBytesMax, headers, grants } = this.#options
    if (body.length > messageBytesMax) {
      throw new BrokerError('message_too_large', `A body has at most ${messageBytesMax} bytes.`)
    }
    carryTrace(draft, headers)
    const message = toMessage(draft, exchange, body, this.#deps.store.state.clockAheadMs)
    requirePublish(this.#deps.topology.table, grants, message)
    if (draft.mandatory) this.#mandatory.set(line, draft.routingKey)
    this.#sizes.set(line, body.length)
    this.#outstandingBytes += body.length
    this.#counts.bytes.value += body.length
    this.#deps.publisher.publish(vhost, message, this, line)
  }
}
