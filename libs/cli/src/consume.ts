/** consume: messages to standard output, acknowledged once they are written. */
import type { Delivery } from '@sluice/client'
import { Command } from 'commander'
import { integer, open } from './profile.ts'
import type { Terminal } from './terminal.ts'

interface Options {
  readonly count?: number
  readonly idle?: number
  readonly concurrency: number
  readonly requeue: boolean
}

export function consumeCommand(terminal: Terminal): Command {
  return new Command('consume')
    .description('messages of a queue to standard output, a line each; Ctrl-C ends it')
    .argument('<queue>')
    .option('-n, --count <n>', 'end after so many', integer(1))
    .option('--idle <ms>', 'end when nothing has come for so long', integer(1))
    .option('--concurrency <n>', 'messages held at a time', integer(1, 10_000), 100)
    .option('--requeue', 'give each back instead of acknowledging it, at the end', false)
    .action(async (queue: string, options: Options, command: Command) => {
      const { sluice, json } = open(command)
      const { count = Number.POSITIVE_INFINITY, idle, concurrency, requeue } = options
      const ended = Promise.withResolvers<void>()
      const stop = () => ended.resolve()
      process.once('SIGINT', stop)
      process.once('SIGTERM', stop)
      let seen = 0
      let timer = idle === undefined ? undefined : setTimeout(stop, idle)
      const work = async (delivery: Delivery) => {
        if (seen >= count) return delivery.release()
        seen++
        terminal.print(shown(delivery), { json, text: () => textOf(delivery.body) })
        if (timer) timer = clearTimeout(timer) ?? setTimeout(stop, idle)
        if (seen >= count) stop()
        if (requeue) {
          await ended.promise // or it would come again at once
          delivery.release()
        }
      }
      const most = Math.min(concurrency, count)
      const consumer = sluice.consume(queue, work, {
        ...{ concurrency: most, prefetch: most },
        onError: (error) => terminal.fail(error),
      })
      try {
        await Promise.race([ended.promise, consumer.closed])
        await consumer.drain()
      } finally {
        clearTimeout(timer)
        process.off('SIGINT', stop).off('SIGTERM', stop)
        await sluice.close()
      }
    })
}

/** Text as it is, bytes as text, everything else as JSON. */
function textOf(body: unknown): string {
  if (body instanceof Uint8Array) return Buffer.from(body).toString()
  return typeof body === 'string' ? body : JSON.stringify(body)
}

function shown({ id, body, exchange, routingKey, headers, properties, ...rest }: Delivery) {
  const { deliveryCount, redelivered, storedAt } = rest
  return {
    id,
    body,
    exchange,
    routingKey,
    headers,
    properties,
    deliveryCount,
    redelivered,
    storedAt,
  }
}
