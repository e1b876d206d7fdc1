/**
 * The version of what is in Redis, as a whole: `sluice:{topology}:format`.
 *
 * A process refuses to start on a format that is newer than what it knows, rather than to misread
 * it. The format is raised when an older process could no longer work beside a newer one; records
 * and batches carry versions of their own besides (record.ts, lua/prelude.lua).
 */
import { BrokerError } from '@sluice/core'
import type { Redis } from 'ioredis'
import { TOPOLOGY_BASE } from './keys.ts'

/** What this version writes. Data without a format is of format 1. */
const FORMAT = 1
const FORMAT_KEY = `${TOPOLOGY_BASE}format`

/** Throws store_unavailable when what is stored is of a newer version. An empty Redis gets ours. */
export async function checkFormat(redis: Redis): Promise<void> {
  const known = await redis.set(FORMAT_KEY, FORMAT, 'NX', 'GET')
  if (known === null || Number(known) <= FORMAT) return
  throw new BrokerError(
    'store_unavailable',
    `Redis holds data of format ${known}, and this version of Sluice knows formats up to ${FORMAT}. ` +
      'Start the newer version again, or restore a backup that was made before the upgrade.',
  )
}
