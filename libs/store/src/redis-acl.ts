/**
 * What Redis must let the broker do, as rules for `ACL SETUSER`: data under its own names and on its
 * own channels, scripts, and looking at what the server can promise. Nothing else: no other keys,
 * no configuration, no administration.
 */
export const REDIS_ACL: readonly string[] = [
  'resetkeys',
  '~sluice:*',
  '~{sluice}:*', // jobs (jobs.ts)
  'resetchannels',
  '&sluice:*',
  '-@all',
  '+@read',
  '+@write',
  '+@pubsub',
  '+@connection',
  '-@admin',
  '-@dangerous', // KEYS, FLUSHALL, SORT, MIGRATE, RESTORE, ...
  '-randomkey',
  '+eval',
  '+evalsha',
  '+time',
  '+wait',
  '+info',
  '+config|get',
  '+cluster|info',
  '+cluster|keyslot',
  '+cluster|slots',
  '+cluster|shards',
  '+cluster|nodes',
]
