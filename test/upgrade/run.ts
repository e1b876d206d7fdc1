/**
 * `npm run e2e:upgrade`: an earlier version and this one side by side, rolled there and back under
 * load. Says that it was skipped where the history is not there.
 */
import { test } from 'node:test'
import { parseArgs } from 'node:util'
import { findRedisServer } from '@sluice/testkit'
import { fetchRedis } from '../../tools/redis-fetch.mjs'
import { roll } from './roll.ts'
import { EARLIER, hasRevision, PRESENT, type Version, versionOf } from './version.ts'

const HELP = `npm run e2e:upgrade -- [options]

Replaces each service of an earlier version by this one, and back, while clients publish and
consume through every door; then accounts for every message. Exit code 1 when one is missing.

  --from <revision>  the earlier version, of this repository's history (${EARLIER})
  --rounds <n>       how often there and back (2)
  --load <ms>        how long both versions of a service work side by side (3000)
  --help             this
`
/** Rounds of publishers follow each other so closely: as many messages as the processes take. */
const ROUND_MS = 2

const { values } = parseArgs({
  options: {
    from: { type: 'string', default: EARLIER },
    rounds: { type: 'string', default: '2' },
    load: { type: 'string', default: '3000' },
    help: { type: 'boolean', default: false },
  },
})
const say = (line: string) => process.stderr.write(`e2e:upgrade: ${line}\n`)

if (values.help) process.stdout.write(HELP)
else if (hasRevision(values.from)) await run(values.from)
else say(`was skipped: ${values.from} is not in the history, as in a shallow clone`)

async function run(from: string): Promise<void> {
  if (findRedisServer() === undefined) await fetchRedis(process.env, say)
  const rounds = numberOf('rounds')
  const options = { loadMs: numberOf('load'), roundMs: ROUND_MS }
  await test(`${from} and back, ${rounds} times`, async (t) => {
    const earlier = versionOf(t, from)
    const thereAndBack: Version[] = Array.from({ length: rounds }, () => [PRESENT, earlier]).flat()
    t.diagnostic(await roll(t, [earlier, ...thereAndBack], options))
  })
}

function numberOf(option: 'rounds' | 'load'): number {
  const number = Number(values[option])
  if (Number.isSafeInteger(number) && number > 0) return number
  throw new Error(`--${option} takes a number from 1, not ${values[option]}`)
}
