/** The consumer processes: started, ordered about, killed, and heard by the ledger. */
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import type { Place } from './api.ts'
import type { Order, Report } from './consumer.ts'
import type { Ledger } from './ledger.ts'

const CONSUMER = new URL('consumer.ts', import.meta.url)

export interface Consumer {
  readonly name: string
  readonly child: ChildProcess
  /** Events that it acknowledged. */
  acked: number
  /** Told to end, or to be killed. */
  dismissed: boolean
}

interface CrewOptions {
  readonly place: Place
  readonly vhost: string
  readonly queues: readonly string[]
  readonly ledger: Ledger
  /** Called after each report. */
  readonly progress: () => void
}

export class Crew {
  readonly #options: CrewOptions
  readonly #consumers: Consumer[] = []
  readonly #failed = Promise.withResolvers<never>()
  #heard: () => void = () => {}

  constructor(options: CrewOptions) {
    this.#options = options
    this.#failed.promise.catch(() => {}) // told to whoever waits
  }

  start(name: string): Consumer {
    const { place, vhost, queues, ledger, progress } = this.#options
    const child = fork(CONSUMER, { execArgv: ['--disable-warning=ExperimentalWarning'] })
    const consumer: Consumer = { name, child, acked: 0, dismissed: false }
    this.#consumers.push(consumer)
    child.on('message', (report: Report) => {
      if (report.kind === 'acked') consumer.acked += report.ids.length
      ledger.note(name, report)
      progress()
      this.#heard()
    })
    child.on('exit', (code, signal) => {
      if (!consumer.dismissed) {
        this.#failed.reject(new Error(`consumer ${name} ended: ${signal ?? `exit code ${code}`}`))
      }
    })
    order(consumer, { kind: 'start', name, place, vhost, queues })
    return consumer
  }

  /** Settles once so many events are acknowledged; rejects when a consumer ends by itself. */
  untilAcked(count: number): Promise<void> {
    const reached = new Promise<void>((resolve) => {
      this.#heard = () => {
        if (this.#options.ledger.acked >= count) resolve()
      }
      this.#heard()
    })
    return Promise.race([reached, this.#failed.promise])
  }

  /** Lets a consumer hang over its next messages, and kills it there. Returns how many it held. */
  async kill(consumer: Consumer): Promise<number> {
    const { child } = consumer
    const holding = new Promise<number>((resolve) => {
      child.on('message', (report: Report) => {
        if (report.kind === 'holding') resolve(report.messages)
      })
    })
    order(consumer, { kind: 'hold' })
    const held = await Promise.race([holding, this.#failed.promise])
    consumer.dismissed = true
    const ended = once(child, 'exit')
    child.kill('SIGKILL')
    await ended
    return held
  }

  /** Tells a consumer to finish what it has, and waits for its end. */
  async dismiss(consumer: Consumer): Promise<void> {
    consumer.dismissed = true
    const ended = once(consumer.child, 'exit')
    order(consumer, { kind: 'stop' })
    await ended
  }

  /** Ends whoever is left. */
  close(): void {
    for (const consumer of this.#consumers) {
      consumer.dismissed = true
      consumer.child.kill('SIGKILL')
    }
  }
}

function order({ child }: Consumer, what: Order): void {
  child.send(what)
}
