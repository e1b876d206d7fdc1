/**
 * With BROKER_ENCRYPTED=1 all that brokers of tests store is sealed: whatever a test says of them
 * must be so all the same (test/e2e/encrypted-contract.test.ts).
 */
export const ENCRYPTED = process.env['BROKER_ENCRYPTED'] === '1'

/** The same key for every process of a test. */
export const ENCRYPTION_ENV: Readonly<Record<string, string>> = ENCRYPTED
  ? { SLUICE_ENCRYPTION_KEY: '5e'.repeat(32) }
  : {}
