/**
 * Where Sluice answers otherwise than RabbitMQ, on purpose. Anything else that differs fails the
 * run, and so does an entry that nothing needs.
 */
export interface DeclaredDifference {
  readonly scenario: string
  /** All unless told. */
  readonly suites?: readonly string[]
  /** Where in the outcome; anywhere unless told. */
  readonly at?: RegExp
  readonly why: string
}

/** Codes are RabbitMQ's; what an Erlang term says there, words say here. */
const WORDS = 'the code is the same, and the text says in words what RabbitMQ says in Erlang terms'
const TYPES =
  'the text names the type of a number as it is stored, not as this client wrote it on the wire'
const LAST_DEATH =
  'x-last-death-* came with RabbitMQ 3.13; x-sluice-* say who held a message and how often'

const death = (scenario: string): DeclaredDifference => ({
  scenario: `dead letters: ${scenario}`,
  at: /\.headers\.x-(?:last-death|sluice)-[\w-]+$/,
  why: LAST_DEATH,
})

export const DIFFERENCES: readonly DeclaredDifference[] = [
  {
    scenario: 'overflow: drop-head, reject-publish',
    at: /^kept\.1/,
    why: 'x-max-length-bytes counts what a message takes, properties included, not its body alone',
  },
  { scenario: 'an expiration that is no number', at: /^text$/, why: WORDS },
  {
    scenario: 'redeclare with other arguments',
    at: /^(?:no ttl|one more|other ttl)\.text$/,
    why: TYPES,
  },
  {
    scenario: 'arguments that make no sense',
    at: /^exchange type\./,
    why: 'an unknown exchange type closes the channel (406), as in RabbitMQ 4, not the connection',
  },
  { scenario: 'arguments that make no sense', at: /\.text$/, why: WORDS },
  { scenario: 'a vhost that does not exist', at: /^text$/, why: 'the code is the same, and the text names the user as well' },
  death('rejected'),
  death('expired, with a key of their own'),
  death('overflow'),
  death('twice through the same queue'),
]
