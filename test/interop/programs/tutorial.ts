/**
 * The programs of a beginners' article on RabbitMQ, run by the real pika: a direct exchange `logs`, a
 * durable queue `hello` bound to it, a consumer with prefetch 1 and one more. First as they stand,
 * where only the address is replaced; then with their mistakes corrected.
 */
import { readFileSync } from 'node:fs'
import { type Channel, connect } from 'amqplib'
import { PYTHON } from '../clients/bridge.ts'
import { eventually } from '../scene.ts'
import type { Program } from '../suites.ts'
import { type Running, run, start } from './command.ts'

const ADDRESS = "pika.ConnectionParameters('localhost')"

/** What no broker can make work. */
const MISTAKES: readonly (readonly [string, string])[] = [
  // pika 1.0 renamed the argument.
  ["type='direct'", "exchange_type='direct'"],
  // Without manual acknowledgement an ack names a delivery that the broker does not know: 406.
  ['auto_ack=True', 'auto_ack=False'],
  ['sleep(body', '__import__("time").sleep(body'],
  // A body is bytes, and so is what is counted in it.
  ["count('.')", "count(b'.')"],
]

function source(file: string, url: string, correct: boolean): string {
  let text = readFileSync(new URL(`../python/tutorial/${file}`, import.meta.url), 'utf8')
  text = text.replace(ADDRESS, `pika.URLParameters('${url}')`)
  if (correct) for (const [wrong, right] of MISTAKES) text = text.replace(wrong, right)
  return text
}

export const asItStands: Program = async (url) => {
  const first = await run(PYTHON, ['-c', source('setup_and_consume.py', url, false)])
  return withTopology(url, async (channel) => {
    channel.publish('logs', 'hello', Buffer.from('a message'), { persistent: true })
    const second = await run(PYTHON, ['-c', source('consume.py', url, false)])
    return { first: lastLine(first.err), second: lastLine(second.err), wrote: second.out }
  })
}

export const corrected: Program = async (url) =>
  withTopology(url, async (channel) => {
    const programs = ['setup_and_consume.py', 'consume.py'].map((file) =>
      start(PYTHON, ['-c', source(file, url, true)]),
    )
    await eventually(async () => (await channel.checkQueue('hello')).consumerCount === 2)
    const bodies = ['1', '2', '3', '4', '5', '6'].map((n) => `message ${n}`)
    for (const body of bodies) channel.publish('logs', 'hello', Buffer.from(body))
    await eventually(async () => received(programs).length === bodies.length)
    for (const program of programs) program.kill('SIGINT')
    await Promise.all(programs.map(({ ended }) => ended))
    return {
      received: received(programs).sort(),
      left: (await channel.checkQueue('hello')).messageCount,
    }
  })

function received(programs: readonly Running[]): string[] {
  return programs.flatMap((program) =>
    [...program.out().matchAll(/Received b'(.*)'/g)].map(([, body = '']) => body),
  )
}

/** The names are the article's own, so they are removed before and after. */
async function withTopology<T>(url: string, work: (channel: Channel) => Promise<T>): Promise<T> {
  const model = await connect(url)
  const channel = await model.createChannel()
  const remove = async () => {
    await channel.deleteQueue('hello')
    await channel.deleteExchange('logs')
  }
  await remove()
  await channel.assertExchange('logs', 'direct', { durable: false })
  await channel.assertQueue('hello', { durable: true })
  await channel.bindQueue('hello', 'logs', 'hello')
  try {
    return await work(channel)
  } finally {
    await remove()
    await model.close()
  }
}

function lastLine(text: string): string {
  return text.trim().split('\n').at(-1) ?? ''
}
