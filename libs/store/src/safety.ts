/**
 * What must hold before a message counts as stored, as one number: bit 0 = on disk (`fsync`), the
 * rest = on how many replicas. Promises of server, queue and message add up: none weakens another.
 */
import type { Durability } from '@sluice/core'

export type Safety = number

export function safetyOf(durability: Durability): Safety {
  if (durability === 'memory') return 0
  if (durability === 'fsync') return 1
  return Number(durability.slice('replicas='.length)) << 1
}

/** Both promises kept. */
export function both(a: Safety, b: Safety): Safety {
  return ((a | b) & 1) | (Math.max(a >> 1, b >> 1) << 1)
}

export const needsFsync = (safety: Safety): boolean => (safety & 1) === 1
export const replicasOf = (safety: Safety): number => safety >> 1
