/**
 * Everything that can die or hang dies or hangs, under load; nothing confirmed is lost, nothing
 * comes twice without saying so, order is kept where it is promised, and the counters are right.
 *
 *   SHORT=1         one run, as part of npm test
 *   SEED=n          replays a run: the same load and the same schedule of faults
 *   RUNS, SECONDS   how many runs, and how long things go wrong in each (10, 60)
 *   VERBOSE=1       says what goes wrong while it does
 *
 * Redis has appendfsync always, where the checks are exact. One run in five has everysec, where a
 * kill may cost what was confirmed last: how much is measured, and bounded.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { seedFromEnv, withRedis } from '@sluice/testkit'
import { type RunResult, run } from './run.ts'

const short = process.env['SHORT'] === '1'
const first = seedFromEnv()
const runs = Number(process.env['RUNS'] ?? (short || process.env['SEED'] ? 1 : 10))
const seconds = Number(process.env['SECONDS'] ?? (short ? 20 : 60))
/** Redis writes its AOF once a second, and postpones a write by at most two for a busy disk. */
const EVERYSEC_LOSS_MS_MAX = 3_000

for (let index = 0; index < runs; index++) {
  const seed = first + index
  const fsync = seed % 5 === 4 && !short ? 'everysec' : 'always'
  test(`nothing promised is broken, seed ${seed}, appendfsync ${fsync}`, async (t) => {
    await withRedis(t) // skips where no server can be had
    const verbose = process.env['VERBOSE'] === '1'
    const result = await run(t, { seed, forMs: seconds * 1_000, fsync, verbose })
    t.diagnostic(`\n${table(result)}`)
    assert.deepEqual(result.wrong.slice(0, 20), [], `replay with SEED=${seed} SECONDS=${seconds}`)
    if (fsync === 'everysec')
      assert.ok(result.lostMs <= EVERYSEC_LOSS_MS_MAX, `${result.lostMs} ms`)
  })
}

function table({ faults, wrong, ...numbers }: RunResult): string {
  const rows = [
    ...Object.entries(numbers).map(([name, value]) => [
      name,
      typeof value === 'number' ? String(Math.round(value)) : value,
    ]),
    ...Object.entries(faults).map(([kind, count]) => [`fault: ${kind}`, String(count)]),
    ['violations', String(wrong.length)],
  ]
  return rows.map(([name, value]) => `  ${name!.padEnd(26)}${value!.padStart(12)}`).join('\n')
}
