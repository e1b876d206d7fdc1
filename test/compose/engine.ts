/** The container engine, by its command lines: what runs, builds, and describes containers. */
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { text } from 'node:stream/consumers'

export const ROOT = new URL('../../', import.meta.url).pathname

/** How compose is called here: a plugin of docker, or the program it was before. */
const COMPOSE = [['docker', 'compose'], ['docker-compose']] as const

/** Why no stack can be run here; undefined where one can. */
export function missing(): string | undefined {
  const { status } = spawnSync('docker', ['info'], { stdio: 'ignore', timeout: 10_000 })
  if (status !== 0) return 'no container engine answers'
  return compose() === undefined ? 'docker has no compose' : undefined
}

function compose(): readonly string[] | undefined {
  return COMPOSE.find(([program, ...args]) => spawnSync(program, [...args, 'version']).status === 0)
}

/** A project of docker-compose.yml, with these variables. */
export class Stack {
  readonly #command: readonly string[]
  readonly #env: NodeJS.ProcessEnv

  constructor(project: string, env: Readonly<Record<string, string>>) {
    this.#command = [...compose()!, '--project-name', project]
    this.#env = { ...process.env, DOCKER_BUILDKIT: '1', ...env }
  }

  /** Standard output; rejects when it fails. */
  async compose(...args: readonly string[]): Promise<string> {
    return await this.#run([...this.#command, ...args])
  }

  async docker(...args: readonly string[]): Promise<string> {
    return await this.#run(['docker', ...args])
  }

  /** The id of a service's container, also of one that ended. */
  async container(service: string): Promise<string> {
    // Without --all for compose 1, whose ps lists all.
    const listed = await this.compose('ps', '--quiet', service)
    return listed.trim().split('\n')[0]!
  }

  async #run([program, ...args]: readonly string[]): Promise<string> {
    const stdio = ['ignore', 'pipe', 'pipe'] as const
    const child = spawn(program!, args, { cwd: ROOT, env: this.#env, stdio: [...stdio] })
    const ended = once(child, 'close')
    const [said, complaints] = await Promise.all([text(child.stdout!), text(child.stderr!)])
    const [code] = (await ended) as [number | null]
    if (code === 0) return said
    throw new Error(`${program} ${args.join(' ')}: exit code ${code}\n${complaints}${said}`)
  }
}
