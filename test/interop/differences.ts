/**
 * Where Sluice answers otherwise than RabbitMQ, on purpose. Anything else that differs fails the run,
 * and so does an entry that nothing needs.
 */
export interface DeclaredDifference {
  readonly scenario: string
  /** All unless told. */
  readonly suites?: readonly string[]
  /** Where in the outcome; anywhere unless told. */
  readonly at?: RegExp
  readonly why: string
}

export const DIFFERENCES: readonly DeclaredDifference[] = []
