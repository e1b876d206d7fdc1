/** What every vhost has from its first moment (amqp-0-9-1, 28). */
import { DEAD_LETTER_QUEUE } from '@sluice/core'
import {
  type Change,
  type ExchangeDefinition,
  type ExchangeType,
  exchangeField,
  type QueueDefinition,
  queueField,
  type VhostDefinition,
  vhostField,
} from './definition.ts'

const EXCHANGES: readonly (readonly [name: string, type: ExchangeType, internal: boolean])[] = [
  ['amq.direct', 'direct', false],
  ['amq.fanout', 'fanout', false],
  ['amq.topic', 'topic', false],
  ['amq.headers', 'headers', false],
  ['amq.match', 'headers', false],
  ['amq.rabbitmq.trace', 'topic', true],
]

/** The changes that make a vhost. @param epoch the version that they will be committed as. */
export function predeclared(
  definition: VhostDefinition,
  epoch: number,
  options: { deadLetterTtlMs: number; deadLetterLengthMax: number },
): Change[] {
  const { name: vhost } = definition
  const deadLetters: QueueDefinition = {
    name: DEAD_LETTER_QUEUE,
    durable: true,
    autoDelete: false,
    exclusive: '',
    arguments: {
      'x-message-ttl': options.deadLetterTtlMs,
      'x-max-length': options.deadLetterLengthMax,
      'x-overflow': 'drop-head',
    },
    epoch,
  }
  return [
    [vhostField(vhost), JSON.stringify(definition)],
    ...EXCHANGES.map(([name, type, internal]): Change => {
      const definition: ExchangeDefinition = {
        name,
        type,
        durable: true,
        autoDelete: false,
        internal,
        arguments: {},
      }
      return [exchangeField(vhost, name), JSON.stringify(definition)]
    }),
    [queueField(vhost, DEAD_LETTER_QUEUE), JSON.stringify(deadLetters)],
  ]
}
