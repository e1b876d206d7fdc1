export {
  type Accounts,
  createApiKey,
  deleteApiKey,
  deletePermission,
  deleteUser,
  permissionsOf,
  putPermission,
  putTopicPermissions,
  putUser,
  readEach,
  type UserChange,
  type UserPermission,
} from './accounts.ts'
export { type Deps, openDeps } from './deps.ts'
export type { KeyInfo } from './encryption.ts'
export { type AppOptions, httpApp } from './http/app.ts'
export { type Area, refuse } from './http/area.ts'
export { type BodyReceived, parseJson, readBody, readJson, receiveBody } from './http/body.ts'
export {
  DELETE_ANSWERS,
  type DocumentSpec,
  documentRoutes,
  findDocument,
  noDocument,
  pauseRoutes,
  putDocument,
  REPLACE_ANSWERS,
} from './http/documents.ts'
export { page } from './http/headers.ts'
export { unauthenticated } from './http/needs.ts'
export { PageQuery, pageOf, pageOn } from './http/paging.ts'
export { Problem, problems, STATUS, sendProblem, toProblem } from './http/problem.ts'
export {
  type Answer,
  Call,
  type Method,
  type Params,
  type RawBody,
  type Reply,
  type Route,
  route,
  sendReply,
} from './http/route.ts'
export { noExchange, noQueue, noUser, noVhost } from './not-found.ts'
export { openAudit } from './open-audit.ts'
export {
  type CloudEvent,
  draftEvent,
  EVENT_TYPE,
  EVENTS_TYPE,
  type EventAttribute,
  type EventMode,
  eventFromHeaders,
  eventFromJson,
  eventHeaders,
  eventJson,
  eventMode,
  eventOfMessage,
  eventsFromBody,
  type MessageFacts,
  storedIdentity,
} from './publish/cloud-event.ts'
export {
  describeReached,
  type PublishCounts,
  publishCounts,
  refusalOf,
  stronger,
} from './publish/outcome.ts'
export {
  carryTrace,
  Draft,
  MessageFields,
  PublishHeaders,
  readFields,
  readHeaders,
  toMessage,
} from './publish/publish-fields.ts'
export { readMessage } from './publish/read-message.ts'
export { requirePublish } from './publish/require-publish.ts'
export {
  type KeptSchedule,
  messageOf,
  nextRuns,
  readSchedule,
  SCHEDULES_MAX,
  type Schedule,
  ScheduleBody,
  type SealedSchedule,
  timesOf,
} from './schedule.ts'
export { isOutdated, keepSchedule, openSchedule } from './sealed-schedule.ts'
export {
  type Broker,
  type Door,
  type MakeService,
  runProcess,
  type Service,
  startBroker,
  type Upgrade,
} from './service.ts'
export type { Tls } from './tls.ts'
