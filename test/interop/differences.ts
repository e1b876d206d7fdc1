/**
 * Where Sluice answers otherwise than RabbitMQ, on purpose. Anything else that differs fails the
 * run, and so does an entry that nothing needs.
 */
interface DeclaredDifference {
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
  {
    scenario: 'a vhost that does not exist',
    at: /^text$/,
    why: 'the code is the same, and the text names the user as well',
  },
  {
    scenario: 'wrong protocol headers',
    at: /^1,1,(?:8,0|9,1)$/,
    why: 'AMQP 0-8 is not spoken: it is answered with the header of what is',
  },
  {
    scenario: 'tuning',
    why: 'a refused tune-ok is told why (530) at once; RabbitMQ hangs up silently after three seconds',
  },
  {
    scenario: 'channels and methods',
    at: /^an unknown (?:class|method)\./,
    why: 'an unknown method is told so (503); RabbitMQ 3.10 hangs up',
  },
  { scenario: 'channels and methods', at: /^a method cut short\./, why: WORDS },
  {
    scenario: 'frames of content',
    at: /^(?:a frame without its end|an unknown frame|content on 0)\./,
    why: 'texts do not repeat the octets that came',
  },
  {
    scenario: 'frames of content',
    at: /^a (?:longer body|body that is announced too large)/,
    why: 'content that is longer than announced, or announced beyond all bounds, is 501',
  },
  {
    scenario: 'unusual requests',
    at: /^bind a reply queue\./,
    why: 'a reply queue cannot be bound: 403, as in RabbitMQ 4; before, it was not found',
  },
  {
    scenario: 'unusual values',
    at: /^(?:BCC of numbers|an expiration with a sign)/,
    why: 'what is no key, or no plain number, is refused; RabbitMQ 3.10 ignores the one and reads the other',
  },
  { scenario: 'unusual values', at: /\.\d$/, why: WORDS },
  death('rejected'),
  death('expired, with a key of their own'),
  death('overflow'),
  death('twice through the same queue'),
]
