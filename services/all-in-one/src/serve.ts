/** Services, run in this process until they are told to stop; and what needs their libraries. */
import cluster from 'node:cluster'
import { readFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { commandNames, runCommand } from '@sluice/cli'
import { runProcess } from '@sluice/server'
import { REDIS_ACL } from '@sluice/store'
import { runAudit } from './audit.ts'
import { SERVICES } from './services.ts'
import { runWorkers, workerCount } from './workers.ts'

const names = Object.keys(SERVICES)

/** What this program takes beside the commands of libs/cli. */
const WORDS = ['all', ...names, 'audit', 'redis-acl']

const HELP = `sluice: a message broker on Redis Streams

  sluice [all | ${names.join(' | ')} ...] [--help] [--version]
  sluice audit verify [<number>:<hash>]
  sluice redis-acl

Runs the services named, all of them unless told. Any number of processes may run each; they share
nothing but Redis. Settings are environment variables (docs/configuration.md); REDIS_URL is needed.
SLUICE_WORKERS=n runs n such processes behind the same ports, for more cores.

  sluice <command> ...          talks to a broker that runs: sluice <command> --help
    ${commandNames().join(', ')}
`

/** Answers the exit code once it has ended. */
export async function serve(): Promise<number> {
  let chosen: string[]
  try {
    const { values, positionals } = parseArgs({
      allowPositionals: true,
      options: { help: { type: 'boolean', short: 'h' }, version: { type: 'boolean', short: 'v' } },
    })
    if (values.help || values.version) {
      process.stdout.write(values.help ? HELP : `${version()}\n`)
      return 0
    }
    if (positionals[0] === 'audit') return await audit(positionals.slice(1))
    if (positionals.length === 1 && positionals[0] === 'redis-acl') {
      process.stdout.write(`${REDIS_ACL.join(' ')}\n`)
      return 0
    }
    const unknown = positionals.find((name) => name !== 'all' && !Object.hasOwn(SERVICES, name))
    if (unknown !== undefined) return await runCommand([unknown], WORDS) // which says so
    chosen = choose(positionals)
  } catch (error) {
    const [said] = (error as Error).message.split('. ') // then follows how to escape it
    process.stderr.write(`sluice: ${said}\n\n${HELP}`)
    return 2
  }
  try {
    const workers = workerCount(process.env)
    if (workers > 1 && cluster.isPrimary) await runWorkers(workers)
    else await runProcess(chosen.map((name) => SERVICES[name]!))
    return 0
  } catch (error) {
    process.stderr.write(`sluice: ${(error as Error).message}\n`)
    return 1
  }
}

async function audit(args: readonly string[]): Promise<number> {
  try {
    return await runAudit(args, (line) => process.stdout.write(`${line}\n`))
  } catch (error) {
    process.stderr.write(`sluice: ${(error as Error).message}\n`)
    return 1
  }
}

function choose(asked: readonly string[]): string[] {
  return asked.length === 0 || asked.includes('all') ? names : [...new Set(asked)]
}

function version(): string {
  const file = new URL('../package.json', import.meta.url)
  return (JSON.parse(readFileSync(file, 'utf8')) as { version: string }).version
}
