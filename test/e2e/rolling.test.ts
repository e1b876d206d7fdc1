/** Every process is replaced by one of the same version, while clients work. */
import { test } from 'node:test'
import { roll } from '../upgrade/roll.ts'
import { PRESENT } from '../upgrade/version.ts'

const LOAD = { loadMs: 500, roundMs: 10 }

test('a rolling restart costs no client anything', async (t) => {
  t.diagnostic(await roll(t, [PRESENT, PRESENT], LOAD))
})
