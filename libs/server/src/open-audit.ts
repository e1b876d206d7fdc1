/** The audit log, for processes and for the command that verifies it. */
import type { Config } from '@sluice/config'
import type { Report } from '@sluice/core'
import { AuditLog, type Store } from '@sluice/store'

export function openAudit(config: Config, store: Store, report: Report): AuditLog {
  return new AuditLog(store.redis, {
    key: config.auditKey,
    keep: config.auditEntriesMax,
    nowMs: () => Date.now() + store.state.clockAheadMs,
    report,
  })
}
