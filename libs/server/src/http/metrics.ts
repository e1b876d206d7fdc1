/** Metrics in Prometheus's text format, under our names and under RabbitMQ's. */
import {
  QUEUES_MEASURED_MAX,
  QUEUES_SUMMED_MAX,
  rabbitmqFamilies,
  renderText,
} from '@sluice/telemetry'
import { z } from 'zod'
import type { Deps } from '../deps.ts'
import { version } from '../observe.ts'
import { type Route, route } from './route.ts'

const TYPE = 'text/plain; version=0.0.4; charset=utf-8'

export function metricsRoutes({ metrics, store, topology }: Deps): Route[] {
  const text = (path: string, summary: string, render: () => Promise<string>): Route =>
    route({
      method: 'get',
      path,
      tag: 'operate',
      needs: 'monitoring',
      summary,
      answers: {
        200: { description: 'See docs/metrics.md.', body: z.string(), type: 'text/plain' },
      },
      async handle({ res }) {
        const body = await render()
        res.setHeader('Content-Type', TYPE)
        res.end(body)
        return undefined
      },
    })

  const rabbitmq = async (perObject: boolean): Promise<string> => {
    const { slot, state } = store
    const tellsQueues = await slot.isFirst().catch(() => false) // Redis is away
    const queues = tellsQueues
      ? await metrics.readQueues(perObject ? QUEUES_MEASURED_MAX : QUEUES_SUMMED_MAX)
      : []
    const { table } = topology
    const all = table.vhosts().reduce((sum, vhost) => sum + table.queueCount(vhost), 0)
    const families = rabbitmqFamilies(metrics, {
      ...{ queues, perObject, version: version(), node: `sluice@${slot.name}` },
      queueCount: tellsQueues ? all : 0,
      redisMaxBytes: state.maxMemory,
    })
    return renderText(families)
  }

  return [
    text('/metrics', 'Metrics of this process in Prometheus’s text format', () => metrics.text()),
    text('/metrics/rabbitmq', 'The same under RabbitMQ’s names', () => rabbitmq(false)),
    text('/metrics/rabbitmq/per-object', 'The same by queue', () => rabbitmq(true)),
  ]
}
