/**
 * Which broker, and as whom. What is not said on the command line comes from the environment, then
 * from a profile, then from the broker that `npm start` runs in this folder.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { dirname, join } from 'node:path'
import { Sluice } from '@sluice/client'
import { Command, InvalidArgumentError } from 'commander'
import { type Terminal, table } from './terminal.ts'

interface Profile {
  readonly url?: string
  readonly user?: string
  readonly password?: string
  readonly token?: string
  readonly vhost?: string
}

interface Profiles {
  readonly current?: string
  readonly profiles: Readonly<Record<string, Profile>>
}

/** Of every command. */
export interface Connection extends Profile {
  readonly json: boolean
  readonly profile?: string
}

const URL_DEFAULT = 'http://127.0.0.1:8080'

export function connectionOptions(command: Command): void {
  command
    .option('--url <url>', `the broker (SLUICE_URL, else ${URL_DEFAULT})`)
    .option('--user <name>', 'who asks (SLUICE_USER, else admin); SLUICE_PASSWORD is the password')
    .option('--vhost <name>', 'virtual host (SLUICE_VHOST, else /)')
    .option('--profile <name>', 'a broker kept by `sluice profile set` (SLUICE_PROFILE)')
    .option('--json', 'results as JSON, a line each', false)
}

/** The options of the whole command line. */
function connectionOf(command: Command): Connection {
  return command.optsWithGlobals<Connection>()
}

/** A client for the broker that a command is about, and whether results are JSON. */
export function open(command: Command): { sluice: Sluice; vhost: string; json: boolean } {
  const { json, ...asked } = connectionOf(command)
  const { env } = process
  const kept = readProfiles()
  const name = asked.profile ?? env['SLUICE_PROFILE'] ?? kept.current
  if (name !== undefined && !Object.hasOwn(kept.profiles, name)) {
    throw new Error(`there is no profile ${name}: sluice profile set ${name} --url ...`)
  }
  const profile: Profile = name === undefined ? {} : kept.profiles[name]!
  const url = asked.url ?? env['SLUICE_URL'] ?? profile.url ?? URL_DEFAULT
  if (!isBroker(url)) {
    return command.error(`a broker's URL is like ${URL_DEFAULT}, without user and password`)
  }
  const token = env['SLUICE_TOKEN'] ?? profile.token
  const password = env['SLUICE_PASSWORD'] ?? profile.password ?? localPassword(url)
  const user = asked.user ?? env['SLUICE_USER'] ?? profile.user ?? 'admin'
  const vhost = asked.vhost ?? env['SLUICE_VHOST'] ?? profile.vhost ?? '/'
  if (token === undefined && password === undefined) {
    throw new Error(
      `no password for ${user} at ${url}: set SLUICE_PASSWORD, or SLUICE_TOKEN; npm start keeps one ` +
        `in .data/admin-password of its folder, and prints it`,
    )
  }
  const login = token === undefined ? { user, password: password! } : { token }
  return { sluice: new Sluice({ url, vhost, ...login }), vhost, json }
}

function isBroker(url: string): boolean {
  if (!/^https?:\/\//.test(url) || !URL.canParse(url)) return false
  const { username, password } = new URL(url)
  return username === '' && password === ''
}

/** A path below the virtual host. */
export function pathIn(vhost: string, ...segments: readonly string[]): string {
  return `/v1/vhosts/${[vhost, ...segments].map(encodeURIComponent).join('/')}`
}

/** The password that a broker started in this folder generated for itself. */
function localPassword(url: string): string | undefined {
  if (!['127.0.0.1', 'localhost', '[::1]'].includes(new URL(url).hostname)) return undefined
  const folder = process.env['SLUICE_DATA_DIR'] ?? '.data'
  try {
    return readFileSync(join(folder, 'admin-password'), 'utf8').trim()
  } catch {
    return undefined
  }
}

function profilesFile(): string {
  const { env } = process
  const folder = env['XDG_CONFIG_HOME'] || join(homedir(), '.config')
  return env['SLUICE_PROFILES'] ?? join(folder, 'sluice', 'profiles.json')
}

function readProfiles(): Profiles {
  try {
    return JSON.parse(readFileSync(profilesFile(), 'utf8')) as Profiles
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return { profiles: {} }
    throw new Error(`${profilesFile()} is not readable: ${(error as Error).message}`)
  }
}

/** Readable by nobody else: it holds passwords. */
function writeProfiles(profiles: Profiles): void {
  const file = profilesFile()
  mkdirSync(dirname(file), { recursive: true, mode: 0o700 })
  writeFileSync(file, `${JSON.stringify(profiles, null, 2)}\n`, { mode: 0o600 })
}

export function profileCommands(terminal: Terminal): Command[] {
  const root = new Command('profile').description('brokers by name')
  root
    .command('set <name>')
    .description('keep --url, --user and --vhost; SLUICE_PASSWORD or SLUICE_TOKEN with them')
    .action((name: string, _options, command: Command) => {
      const { url, user, vhost } = connectionOf(command)
      const { SLUICE_PASSWORD: password, SLUICE_TOKEN: token } = process.env
      const kept = readProfiles()
      const profile = { url, user, vhost, password, token }
      const profiles = { ...kept.profiles, [name]: profile } as Profiles['profiles']
      writeProfiles({ ...kept, profiles, current: kept.current ?? name })
    })
  root
    .command('use <name>')
    .description('the one that counts where none is named')
    .action((name: string) => {
      const kept = readProfiles()
      if (!Object.hasOwn(kept.profiles, name)) throw new Error(`there is no profile ${name}`)
      writeProfiles({ ...kept, current: name })
    })
  root
    .command('remove <name>')
    .description('forget it')
    .action((name: string) => {
      const { current, profiles } = readProfiles()
      const { [name]: _, ...rest } = profiles
      writeProfiles({ profiles: rest, ...(current !== name && current && { current }) })
    })
  root
    .command('list')
    .description('all of them, without their passwords')
    .action((_options, command: Command) => {
      const { current, profiles } = readProfiles()
      const list = Object.entries(profiles).map(([name, { url, user, vhost }]) => ({
        ...{ name, current: name === current, url, user, vhost },
      }))
      const rows = list.map(({ name, url, user, vhost, ...rest }) => [
        ...[rest.current ? '*' : '', name, url ?? '', user ?? '', vhost ?? ''],
      ])
      terminal.print(list, {
        json: connectionOf(command).json,
        text: () => table(['', 'NAME', 'URL', 'USER', 'VHOST'], rows),
      })
    })
  return [root]
}

/** A whole number within bounds, for an option. */
export function integer(min: number, max = Number.MAX_SAFE_INTEGER): (text: string) => number {
  return (text) => {
    const value = Number(text)
    if (Number.isSafeInteger(value) && value >= min && value <= max) return value
    throw new InvalidArgumentError(
      `It is a whole number from ${min}${max < 1e15 ? ` to ${max}` : ''}.`,
    )
  }
}

/** `name=value` pairs, JSON where a value is such, for an option that may be repeated. */
export function pairs(text: string, before: Record<string, unknown> = {}): Record<string, unknown> {
  const at = text.indexOf('=')
  if (at < 1) throw new InvalidArgumentError('It is name=value.')
  return { ...before, [text.slice(0, at)]: parsed(text.slice(at + 1)) }
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return text
  }
}
