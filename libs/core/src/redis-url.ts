/**
 * Where Redis is, as one URL:
 *
 *   redis://user:password@host:6379/0                   one server
 *   redis+sentinel://user:password@host:26379,host:26379/mymaster?sentinelPassword=...
 *   redis+cluster://user:password@host:6379,host:6379
 *
 * `rediss` instead of `redis` speaks TLS to Redis, and to the sentinels. User and password are
 * those of Redis; sentinels have their own (sentinelUser, sentinelPassword). Ports default to
 * Redis's 6379, or 26379 for sentinels. Names and passwords are percent-encoded where they hold
 * characters that mean something in a URL.
 */

export interface RedisHost {
  readonly host: string
  readonly port: number
}

export interface RedisAddress {
  readonly kind: 'single' | 'sentinel' | 'cluster'
  readonly tls: boolean
  /** At least one; of a cluster, those that are asked first. */
  readonly hosts: readonly RedisHost[]
  readonly username: string | undefined
  readonly password: string | undefined
  /** Number of the database; always 0 in a cluster. */
  readonly db: number
  /** What the sentinels call the primary; '' without sentinels. */
  readonly primary: string
  readonly sentinelUsername: string | undefined
  readonly sentinelPassword: string | undefined
}

const URL_PARTS =
  /^redis(s?)(?:\+(sentinel|cluster))?:\/\/(?:([^@/?]*)@)?([^/?#]+)(?:\/([^?#]*))?(?:\?([^#]*))?$/
const HOST = /^(\[[0-9a-fA-F:.]+\]|[^:[\]]+)(?::(\d{1,5}))?$/
const PORT = 6_379
const SENTINEL_PORT = 26_379
const PARAMETERS = ['sentinelUser', 'sentinelPassword']

/** Throws an Error that says what is wrong, without the URL, which may hold a password. */
export function parseRedisUrl(url: string): RedisAddress {
  const parts = URL_PARTS.exec(url)
  if (!parts) throw new Error('must be a URL like redis://user:password@host:6379/0')
  const [, s, kind = 'single', login, hostList = '', path = '', query = ''] = parts
  const sentinel = kind === 'sentinel'
  const hosts = hostList.split(',').map((text) => parseHost(text, sentinel))
  if (kind === 'single' && hosts.length > 1) {
    throw new Error('names several hosts: begin it with redis+cluster:// or redis+sentinel://')
  }
  const segments = path.split('/').map(decode)
  const primary = sentinel ? segments.shift()! : ''
  if (sentinel && primary === '') {
    throw new Error(
      'must name the primary behind the sentinels, as in redis+sentinel://host/mymaster',
    )
  }
  const [number = '', ...rest] = segments
  if (!/^\d{0,5}$/.test(number) || rest.length > 0)
    throw new Error('must end with a database number')
  if (kind === 'cluster' && Number(number) !== 0) throw new Error('a cluster has only database 0')
  const parameters = new URLSearchParams(query)
  for (const name of parameters.keys()) {
    if (!sentinel || !PARAMETERS.includes(name)) throw new Error(`has an unknown parameter ${name}`)
  }
  const colon = login?.indexOf(':') ?? -1
  const name = login === undefined ? '' : decode(colon < 0 ? login : login.slice(0, colon))
  return {
    kind: kind as RedisAddress['kind'],
    tls: s === 's',
    hosts,
    username: name || undefined,
    password: colon < 0 ? undefined : decode(login!.slice(colon + 1)),
    db: Number(number),
    primary,
    sentinelUsername: parameters.get('sentinelUser') ?? undefined,
    sentinelPassword: parameters.get('sentinelPassword') ?? undefined,
  }
}

function parseHost(text: string, sentinel: boolean): RedisHost {
  const parts = HOST.exec(text)
  const port = Number(parts?.[2] ?? (sentinel ? SENTINEL_PORT : PORT))
  if (!parts || port < 1 || port > 65_535) throw new Error('has a host that is none')
  return { host: parts[1]!.replace(/^\[|\]$/g, ''), port }
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    throw new Error('has a percent sign that encodes nothing')
  }
}
