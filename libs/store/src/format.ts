/**
 * The version of what is in Redis, as a whole: `sluice:{topology}:format`.
 *
 * A process refuses to start on a format that is newer than what it reads, rather than to misread
 * it; one that writes a newer format than is stored raises that, so that no older process starts
 * any more. Records and batches carry versions of their own besides (record.ts, lua/prelude.lua).
 *
 * Two neighbouring versions work side by side, so a change that the version before cannot read
 * takes two releases: the first reads the new format and writes the old one, the second writes it.
 */
import { BrokerError } from '@sluice/core'
import type { Redis } from 'ioredis'
import { TOPOLOGY_BASE } from './keys.ts'
import { script } from './script.ts'

interface Formats {
  /** What this version writes. Data without a format is of format 1. */
  readonly written: number
  /** The newest that it reads: the same, or one more. */
  readonly readMax: number
}

const FORMATS: Formats = { written: 1, readMax: 1 }

export const format = script('format', ['written'], ([stored]) => Number(stored))

/** Throws store_unavailable when what is stored is of a newer version than this one reads. */
export async function checkFormat(redis: Redis, formats: Formats = FORMATS): Promise<void> {
  const stored = await format(redis, TOPOLOGY_BASE, [formats.written])
  if (stored <= formats.readMax) return
  throw new BrokerError(
    'store_unavailable',
    `Redis holds data of format ${stored}, and this version of Sluice knows formats up to ` +
      `${formats.readMax}. Start the newer version again, or restore a backup that was made before ` +
      'the upgrade.',
  )
}
