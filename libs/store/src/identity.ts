import { createHash } from 'node:crypto'
import { limits } from '@sluice/core'
import type { QueueStore } from './queue-store.ts'

/**
 * What names a message over all queues: its de-duplication id where it is moved to, so that moving
 * it again after a crash stores it once. At most 255 bytes.
 */
export function messageIdentity(
  { vhost, name, epoch }: Pick<QueueStore, 'vhost' | 'name' | 'epoch'>,
  id: string,
): string {
  const full = `${encodeURIComponent(vhost)}/${encodeURIComponent(name)}/${epoch}/${id}`
  if (full.length <= limits.NAME_BYTES_MAX) return full
  return createHash('sha256').update(full).digest('base64url')
}
