/**
 * Brings the foreign clients that Debian packages, and its RabbitMQ, where that is possible: as
 * root, with apt. Elsewhere it says what is missing; the run goes on with what is there.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, rmSync, writeFileSync } from 'node:fs'

/** A file that shows that a package is there, and the package. */
const PACKAGES: Readonly<Record<string, string>> = {
  '/usr/lib/python3/dist-packages/pika': 'python3-pika',
  '/usr/lib/python3/dist-packages/amqp': 'python3-amqp',
  '/usr/lib/python3/dist-packages/kombu': 'python3-kombu',
  '/usr/lib/python3/dist-packages/celery': 'python3-celery',
  '/usr/lib/python3/dist-packages/redis': 'python3-redis',
  '/usr/bin/amqp-publish': 'amqp-tools',
}
const RABBITMQ = { '/usr/lib/rabbitmq/bin/rabbitmq-server': 'rabbitmq-server' }

/** Forbids packages to start what they bring. */
const POLICY = '/usr/sbin/policy-rc.d'

/** Returns what could not be installed. */
export function install(
  say: (line: string) => void,
  { rabbitmq }: { rabbitmq: boolean },
): readonly string[] {
  const wanted = missingOf({ ...PACKAGES, ...(rabbitmq && RABBITMQ) })
  if (wanted.length === 0) return []
  if (process.getuid?.() !== 0 || !existsSync('/usr/bin/apt-get')) return wanted
  say(`installing ${wanted.join(' ')}`)
  const ours = !existsSync(POLICY)
  if (ours) writeFileSync(POLICY, '#!/bin/sh\nexit 101\n', { mode: 0o755 })
  try {
    apt('update')
    apt('install', '--yes', '--no-install-recommends', ...wanted)
  } finally {
    if (ours) rmSync(POLICY)
  }
  return missingOf({ ...PACKAGES, ...(rabbitmq && RABBITMQ) })
}

function missingOf(packages: Readonly<Record<string, string>>): string[] {
  return Object.entries(packages).flatMap(([file, name]) => (existsSync(file) ? [] : [name]))
}

function apt(...args: string[]): void {
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' }
  const { status, stderr } = spawnSync('apt-get', args, { env, encoding: 'utf8' })
  if (status !== 0) process.stderr.write(`apt-get ${args[0]}: ${stderr.trim()}\n`)
}
