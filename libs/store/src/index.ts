export type { Admitted, AppendReply } from './appender.ts'
export { queueHolders, type StoredQueue, storedQueues } from './audit.ts'
export {
  type AuditEntry,
  type AuditEvent,
  AuditLog,
  type Verdict,
} from './audit-log.ts'
export {
  type Ask,
  Budget,
  type BudgetLimits,
  type Loan,
  latenessMs,
  PERMITS_LEASE_MS,
} from './budget.ts'
export {
  DataKey,
  KEY_MATERIAL_SIZE,
  newKeyMaterial,
  openText,
  sealText,
  textSealedBy,
} from './data-key.ts'
export {
  type Changes,
  COMMIT_CHANGES_MAX,
  type Commit,
  type DefinitionChange,
  type Definitions,
  type Mark,
  NO_DEFINITIONS,
} from './definitions.ts'
export { messageIdentity } from './identity.ts'
export { type Audited, audit } from './invariant.ts'
export { refOf } from './inventory.ts'
export {
  JOBS_PREFIX,
  JOBS_QUEUE,
  type Jobs,
  REDRIVE_JOB,
  REDRIVE_START,
  REDRIVES_QUEUE,
  type RedriveChange,
  type RedriveData,
  type RedriveProgress,
  type RedriveStatus,
  SWEEP_JOB,
  TICKS_QUEUE,
  type TickData,
} from './jobs.ts'
export { type KeyKeeper, type KeyRing, noKey } from './key-ring.ts'
export { parseQueueBase } from './keys.ts'
export type { LeasedMessage, LeaseOptions, LeaseSettlement, SettleOutcome } from './leases.ts'
export type { QueueStats } from './queue-stats.ts'
export { type MessageState, type QueueReply, QueueStore } from './queue-store.ts'
export { type Encodings, encodeRecord, type MessageRecord, placeOf } from './record.ts'
export { type ServerState, unavailable } from './redis.ts'
export { REDIS_ACL } from './redis-acl.ts'
export {
  type FoundRequest,
  isOver,
  type KeptAnswer,
  type RequestRecord,
  type RequestState,
  type Requests,
} from './requests.ts'
export { roomClient } from './room-client.ts'
export type {
  DropOutcome,
  HeldReturn,
  Hint,
  Peeked,
  Swept,
  Taken,
  TakenBatch,
  TakenMessage,
  Tally,
} from './scripts.ts'
export { failureOf } from './scripts.ts'
export type { SlotTaken } from './sealing.ts'
export { QUEUE_SETTINGS_DEFAULT, type QueueSettings } from './settings.ts'
export { openStore, type Store, type StoreOptions } from './store.ts'
export { nextTick, TICK_SETTINGS, type TickTimes } from './tick-times.ts'
export type { RoomOptions, RoomReply, WaitingRoom } from './waiting-room.ts'
