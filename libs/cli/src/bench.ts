/** bench: publishes and consumes against a running broker, and says how fast that went. */
import type { Sluice } from '@sluice/client'
import { Command } from 'commander'
import { integer, open } from './profile.ts'
import { grouped, type Terminal } from './terminal.ts'

interface Options {
  readonly messages: number
  readonly size: number
  readonly producers: number
  readonly consumers: number
  readonly batch: number
}

const WAIT_MS_MAX = 60_000

export function benchCommand(terminal: Terminal): Command {
  return new Command('bench')
    .description('publishes and consumes through a queue of its own; prints rates and latencies')
    .option('-n, --messages <n>', 'how many', integer(1, 10_000_000), 10_000)
    .option('-s, --size <bytes>', 'of a body', integer(1, 1_000_000), 256)
    .option('-p, --producers <n>', 'that publish at a time', integer(1, 100), 2)
    .option('-c, --consumers <n>', 'that consume at a time', integer(1, 100), 2)
    .option('-b, --batch <n>', 'messages a request', integer(1, 1_000), 100)
    .action(async (options: Options, command: Command) => {
      const { sluice, json } = open(command)
      const queue = `sluice-bench-${Date.now().toString(36)}`
      await sluice.topology.declareQueue(queue)
      try {
        const result = await measure(terminal, sluice, queue, options)
        terminal.print(result, {
          json,
          text: () =>
            `${grouped(result.messages)} messages of ${options.size} bytes\n` +
            `published  ${grouped(result.publishedPerSecond)}/s\n` +
            `consumed   ${grouped(result.consumedPerSecond)}/s\n` +
            `latency    p50 ${result.p50Ms} ms, p99 ${result.p99Ms} ms, worst ${result.worstMs} ms`,
        })
      } finally {
        await sluice.topology.deleteQueue(queue)
        await sluice.close()
      }
    })
}

async function measure(terminal: Terminal, sluice: Sluice, queue: string, options: Options) {
  const { messages, size, producers, consumers, batch } = options
  const latencies: number[] = []
  const done = Promise.withResolvers<void>()
  done.promise.catch(() => {}) // awaited once all is published
  let late = setTimeout(() => done.reject(new Error('messages are missing')), WAIT_MS_MAX)
  const begun = performance.now()
  const seen = (body: unknown) => {
    latencies.push(performance.now() - Number.parseFloat(String(body)))
    late.refresh()
    terminal.progress(() => `${grouped(latencies.length)} of ${grouped(messages)}`)
    if (latencies.length === messages) done.resolve()
  }
  const consuming = Array.from({ length: consumers }, () =>
    sluice.consume(queue, ({ body }) => seen(body), {
      ...{ concurrency: 250, prefetch: 250 },
    }),
  )
  for (const consumer of consuming) consumer.closed.catch((error) => done.reject(error))
  let left = messages
  const produce = async () => {
    while (left > 0) {
      const count = Math.min(batch, left)
      left -= count
      const body = String(performance.now()).padEnd(size, ' ')
      await sluice.publishBatch(
        { queue },
        Array.from({ length: count }, () => ({ body })),
      )
    }
  }
  await Promise.all(Array.from({ length: producers }, produce))
  const published = performance.now() - begun
  late = late.refresh()
  await done.promise.finally(() => clearTimeout(late))
  const consumed = performance.now() - begun
  await Promise.all(consuming.map((consumer) => consumer.drain()))
  const sorted = latencies.sort((a, b) => a - b)
  const at = (share: number) =>
    Math.round(sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))]! * 10) / 10
  return {
    messages,
    publishedPerSecond: Math.round((messages * 1_000) / published),
    consumedPerSecond: Math.round((messages * 1_000) / consumed),
    p50Ms: at(0.5),
    p99Ms: at(0.99),
    worstMs: at(1),
  }
}
