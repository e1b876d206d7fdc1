/** Queues over HTTP: declare, show with live counts, list, delete. */
import {
  type Deps,
  noQueue,
  noVhost,
  PageQuery,
  pageOf,
  pageOn,
  type Route,
  route,
} from '@sluice/server'
import type { QueueEntry } from '@sluice/topology'
import { z } from 'zod'
import { Arguments, DECLARE_REFUSALS, declared, PUT_ANSWERS } from './http-topology.ts'

const QueueBody = z.strictObject({
  durable: z.boolean().default(true),
  autoDelete: z.boolean().default(false),
  arguments: Arguments.meta({ description: 'x-message-ttl, x-max-length, ...: docs/queues.md.' }),
})

const Queue = z
  .object({
    name: z.string(),
    durable: z.boolean(),
    autoDelete: z.boolean(),
    arguments: z.record(z.string(), z.json()),
    policy: z.string().optional().meta({ description: 'The policy that applies.' }),
    messages: z.object({
      ready: z.int().meta({ description: 'Waiting to be delivered.' }),
      unacked: z.int().meta({ description: 'Held by consumers.' }),
      delayed: z.int().meta({ description: 'Waiting for their time, or for a retry.' }),
      dead: z.int().meta({ description: 'On their way to the dead letters.' }),
      bytes: z.int().meta({ description: 'Bytes of ready messages.' }),
    }),
    totals: z
      .record(z.string(), z.int())
      .meta({ description: 'Counts since the queue was declared: published, acked, expired, ...' }),
  })
  .meta({ id: 'Queue' })

const tag = 'topology'
const path = '/v1/vhosts/:vhost/queues/:queue'

export function queueRoutes(deps: Deps): Route[] {
  return [...reads(deps), ...writes(deps)]
}

function reads({ topology }: Deps): Route[] {
  return [
    route({
      method: 'get',
      path: '/v1/vhosts/:vhost/queues',
      tag,
      needs: 'vhost',
      summary: 'List queues, with live counts',
      query: PageQuery,
      answers: { 200: { description: 'A page of them.', body: pageOf(Queue) } },
      refusals: ['vhost_not_found'],
      async handle({ params: { vhost }, query }) {
        await topology.refresh()
        const page = pageOn(
          topology.table.queues(vhost),
          ({ definition }) => definition.name,
          query,
        )
        return {
          status: 200,
          body: { ...page, items: await Promise.all(page.items.map(shownQueue)) },
        }
      },
    }),
    route({
      method: 'get',
      path,
      tag,
      needs: 'vhost',
      summary: 'Show a queue, with live counts',
      answers: { 200: { description: 'The queue.', body: Queue } },
      refusals: ['vhost_not_found', 'queue_not_found'],
      async handle({ params: { vhost, queue } }) {
        await topology.refresh()
        const { table } = topology
        if (!table.hasVhost(vhost)) throw noVhost(vhost)
        const entry = table.queue(vhost, queue)
        if (!entry) throw noQueue(queue)
        return { status: 200, body: await shownQueue(entry) }
      },
    }),
  ]
}

function writes({ topology }: Deps): Route[] {
  return [
    route({
      method: 'put',
      path,
      tag,
      needs: { configure: 'queue' },
      summary: 'Declare a queue',
      body: QueueBody,
      answers: PUT_ANSWERS,
      refusals: DECLARE_REFUSALS,
      async handle(call) {
        const { vhost, queue } = call.params
        const { body } = call
        const deadLetters = body.arguments['x-dead-letter-exchange']
        if (typeof deadLetters === 'string') {
          call.require('read', { kind: 'queue', name: queue })
          call.require('write', { kind: 'exchange', name: deadLetters })
        }
        const definition = { name: queue, exclusive: '', ...body }
        return declared((await topology.declareQueue(vhost, definition)).created)
      },
    }),
    route({
      method: 'delete',
      path,
      tag,
      needs: { configure: 'queue' },
      summary: 'Delete a queue, its bindings and its messages',
      query: z.strictObject({
        ifEmpty: z
          .stringbool()
          .default(false)
          .meta({ description: 'Only if it holds no message.' }),
        ifUnused: z
          .stringbool()
          .default(false)
          .meta({ description: 'Only if it has no consumer; leases are none.' }),
      }),
      answers: {
        200: {
          description: 'It is not there.',
          body: z.object({
            messages: z.int().meta({ description: 'Ready messages deleted with it.' }),
          }),
        },
      },
      refusals: ['vhost_not_found', 'not_empty', 'in_use', 'forbidden'],
      async handle({ params: { vhost, queue }, query: { ifEmpty, ifUnused } }) {
        const { messages } = await topology.deleteQueue(vhost, queue, { ifEmpty, ifUnused })
        return { status: 200, body: { messages } }
      },
    }),
  ]
}

async function shownQueue({ definition, policy, store }: QueueEntry) {
  const { name, durable, autoDelete, arguments: args } = definition
  const { ready, unacked, delayed, dead, bytes, ...totals } = await store.stats()
  return {
    name,
    durable,
    autoDelete,
    arguments: args,
    ...(policy !== undefined && { policy }),
    messages: { ready, unacked, delayed, dead, bytes },
    totals,
  }
}
