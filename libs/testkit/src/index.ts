export { freePort } from './free-port.ts'
export { plainMessage, type TestMessage } from './message.ts'
export { type Random, random, randomFor, seedFromEnv } from './random.ts'
export {
  launch,
  type PrivateRedis,
  type PrivateRedisOptions,
  privateRedis,
  type Scope,
  type SharedRedis,
  withBareRedis,
  withRedis,
} from './redis.ts'
export {
  type Member,
  moveSlot,
  privateCluster,
  privateSentinel,
  type RedisGroup,
} from './redis-group.ts'
export { findRedisServer } from './redis-server.ts'
export { waitFor } from './wait-for.ts'
