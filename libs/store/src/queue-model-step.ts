/** One random step of queue-model.redis.test.ts, as drawn: it knows nothing of what came before. */
import type { LeaseSettlement } from './index.ts'
import type { Duration } from './queue-model.ts'

interface NewMessage {
  readonly level: number
  readonly key: string
  readonly ttl: Duration
  readonly delay: Duration
  readonly id: string
}

/** `mask` and `pick` choose among what there is at the time. */
export type Step =
  | { readonly step: 'append'; readonly by: number; readonly messages: readonly NewMessage[] }
  | { readonly step: 'take'; readonly by: number; readonly credit: number }
  | { readonly step: 'lease'; readonly by: number; readonly max: number; readonly soon: boolean }
  | { readonly step: 'ackHeld'; readonly by: number; readonly pick: number; readonly mask: number }
  | {
      readonly step: 'ackPartly'
      readonly by: number
      readonly pick: number
      readonly mask: number
    }
  | {
      readonly step: 'giveBack'
      readonly by: number
      readonly mask: number
      readonly action: 'ready' | 'unseen' | 'due' | 'dead'
      readonly soon: boolean
      readonly failed: boolean
    }
  | {
      readonly step: 'settle' | 'settleStale'
      readonly by: number
      readonly mask: number
      readonly outcome: LeaseSettlement['outcome']
      readonly soon: boolean
    }
  | { readonly step: 'recover'; readonly by: number; readonly mask: number }
  | { readonly step: 'dieAndReclaim' | 'sweep' | 'purge'; readonly by: number }
  | {
      readonly step: 'claimAndBury'
      readonly by: number
      readonly max: number
      readonly mask: number
      readonly soon: boolean
    }
  | { readonly step: 'pick'; readonly by: number; readonly pick: number; readonly soon: boolean }
  | { readonly step: 'peek'; readonly by: number; readonly max: number }

export type Of<S extends Step['step']> = Extract<Step, { step: S }>
