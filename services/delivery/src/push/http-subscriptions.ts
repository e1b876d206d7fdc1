/**
 * Push subscriptions over HTTP: declared, shown, listed, deleted, paused, resumed and tried out.
 *
 * PUT replaces the whole document. Secrets are write-only (masking.ts). Reads show every change
 * that was made, anywhere, before they were asked.
 */
import { randomUUID } from 'node:crypto'
import { encodeProperties } from '@sluice/amqp'
import { BrokerError, DEFAULT_EXCHANGE, parseName } from '@sluice/core'
import { webhookPublicKey } from '@sluice/security'
import {
  type Call,
  type Deps,
  MessageFields,
  PageQuery,
  pageOf,
  pageOn,
  type Route,
  readMessage,
  route,
} from '@sluice/server'
import type { Json } from '@sluice/topology'
import { z } from 'zod'
import { Fired, fire } from './fire.ts'
import type { Guard } from './guard.ts'
import { masked, unmasked } from './masking.ts'
import type { PushMessage } from './request.ts'
import { Subscription } from './subscription.ts'

/** Test-fires under way in this process: each holds a request, and a connection to somewhere. */
const FIRES_MAX = 20

/** Subscriptions of a vhost: every process runs a pump for each. */
const SUBSCRIPTIONS_MAX = 10_000

const tag = 'push'
const LIST = '/v1/vhosts/:vhost/subscriptions'
const PATH = '/v1/vhosts/:vhost/subscriptions/:name'

export const SubscriptionState = z
  .object({
    inFlight: z.int().meta({ description: 'Requests under way.' }),
    limit: z.int().meta({ description: 'Most that this process would have under way.' }),
    breaker: z.enum(['closed', 'open']).meta({ description: 'open: the endpoint is down.' }),
  })
  .meta({ id: 'SubscriptionState', description: 'As the process that answers knows it.' })
type State = z.output<typeof SubscriptionState>

const Shown = Subscription.extend({
  name: z.string(),
  publicKeys: z.array(z.string()).optional().meta({
    description: 'whpk_: what receivers verify with, where keys are ed25519.',
  }),
  state: SubscriptionState.optional(),
}).meta({ id: 'Subscription' })

interface Parts {
  readonly topology: Deps['topology']
  readonly guard: Guard
  /** What a subscription does here; undefined where it does nothing. */
  readonly stateOf: (vhost: string, name: string) => State | undefined
}

export function subscriptionRoutes(parts: Parts): Route[] {
  return [
    ...reads(parts),
    ...writes(parts),
    pauseRoute(parts, true),
    pauseRoute(parts, false),
    testRoute(parts),
  ]
}

function reads({ topology, stateOf }: Parts): Route[] {
  const shown = (vhost: string, name: string, value: Json) => {
    const subscription = read(value)
    if (subscription === undefined) return []
    const { signing } = subscription
    const state = stateOf(vhost, name)
    return [
      {
        name,
        ...masked(subscription),
        ...(signing?.scheme === 'ed25519' && { publicKeys: signing.keys.map(webhookPublicKey) }),
        ...(state && { state }),
      },
    ]
  }
  return [
    route({
      method: 'get',
      path: LIST,
      needs: 'vhost',
      tag,
      summary: 'List push subscriptions',
      query: PageQuery,
      answers: { 200: { description: 'A page of them.', body: pageOf(Shown) } },
      refusals: ['vhost_not_found'],
      async handle({ params: { vhost }, query }) {
        const documents = await current(topology, vhost)
        const page = pageOn(documents.list('subscription', vhost), ({ name }) => name, query)
        const items = page.items.flatMap(({ name, value }) => shown(vhost, name, value))
        return { status: 200, body: { ...page, items } }
      },
    }),
    route({
      method: 'get',
      path: PATH,
      needs: 'vhost',
      tag,
      summary: 'Show a push subscription, its secrets masked',
      answers: { 200: { description: 'The subscription.', body: Shown } },
      refusals: ['vhost_not_found', 'subscription_not_found'],
      async handle({ params: { vhost, name } }) {
        const value = (await current(topology, vhost)).get('subscription', vhost, name)
        const [body] = value === undefined ? [] : shown(vhost, name, value)
        if (body === undefined) throw notFound(name)
        return { status: 200, body }
      },
    }),
  ]
}

function writes({ topology, guard }: Parts): Route[] {
  return [
    route({
      method: 'put',
      path: PATH,
      needs: 'vhost',
      tag,
      summary: 'Declare or replace a push subscription',
      description: 'From a queue to an HTTP endpoint. A change acts at once, in every process.',
      body: Subscription,
      answers: {
        201: { description: 'Created.' },
        200: { description: 'It was there; it is now as the request says.' },
      },
      refusals: ['vhost_not_found', 'queue_not_found', 'forbidden'],
      async handle(call) {
        const { vhost } = call.params
        const name = parseName('subscription', call.params.name)
        const { body } = call
        mayConsume(call, body.queue)
        const refusal = guard.refusal(new URL(body.endpoint.url).hostname)
        if (refusal) throw new BrokerError('invalid_request', refusal.message)
        const { before } = await topology.changeDocument(
          'subscription',
          vhost,
          name,
          (value, table) => {
            if (!table.queue(vhost, body.queue)) {
              const text = `There is no queue ${JSON.stringify(body.queue)}.`
              throw new BrokerError('queue_not_found', text)
            }
            const { length: count } = table.documents.list('subscription', vhost)
            if (value === undefined && count >= SUBSCRIPTIONS_MAX) {
              const text = `A vhost has at most ${SUBSCRIPTIONS_MAX} subscriptions.`
              throw new BrokerError('invalid_request', text)
            }
            const kept = value === undefined ? undefined : read(value)
            if (kept) mayConsume(call, kept.queue)
            return unmasked(body, kept) as unknown as Json
          },
        )
        return { status: before === undefined ? 201 : 200 }
      },
    }),
    route({
      method: 'delete',
      path: PATH,
      needs: 'vhost',
      tag,
      summary: 'Delete a push subscription; its queue stays, with what waits in it',
      answers: { 204: { description: 'It is not there.' } },
      refusals: ['vhost_not_found', 'forbidden'],
      async handle(call) {
        const { vhost, name } = call.params
        await topology.changeDocument('subscription', vhost, name, (value) => {
          const kept = value === undefined ? undefined : read(value)
          if (kept) mayConsume(call, kept.queue)
          return null
        })
        return { status: 204 }
      },
    }),
  ]
}

function pauseRoute({ topology }: Parts, paused: boolean): Route {
  return route({
    method: 'post',
    path: paused ? `${PATH}/pause` : `${PATH}/resume`,
    needs: 'vhost',
    tag,
    summary: paused ? 'Pause a push subscription' : 'Resume a push subscription',
    description: paused
      ? 'What is under way ends; nothing else is sent. Messages wait in their queue.'
      : 'Sends again, in its shape.',
    answers: { 204: { description: paused ? 'It is paused.' : 'It runs.' } },
    refusals: ['vhost_not_found', 'subscription_not_found', 'forbidden'],
    async handle(call) {
      const { vhost, name } = call.params
      await topology.changeDocument('subscription', vhost, name, (value) => {
        const kept = value === undefined ? undefined : read(value)
        if (kept === undefined) throw notFound(name)
        mayConsume(call, kept.queue)
        return { ...kept, paused } as unknown as Json
      })
      return { status: 204 }
    },
  })
}

const TestBody = z.strictObject({
  message: MessageFields.optional().meta({
    description: 'As in a batch. Without it, a small JSON message is sent.',
  }),
})

function testRoute({ topology, guard }: Parts): Route {
  let firing = 0
  return route({
    method: 'post',
    path: `${PATH}/test`,
    needs: 'vhost',
    tag,
    summary: 'Send one message to the endpoint of a push subscription, and show all that is said',
    description:
      'Also while it is paused, and past its rate. Nothing is stored, and nothing is tried again.',
    body: TestBody,
    answers: { 200: { description: 'What was sent and answered.', body: Fired } },
    refusals: [
      'vhost_not_found',
      'subscription_not_found',
      'queue_not_found',
      'too_many_requests',
      'forbidden',
    ],
    async handle(call) {
      const { vhost, name } = call.params
      const value = (await current(topology, vhost)).get('subscription', vhost, name)
      const subscription = value === undefined ? undefined : read(value)
      if (subscription === undefined) throw notFound(name)
      mayConsume(call, subscription.queue)
      const message = testMessage(call.body.message, subscription.queue)
      if (firing >= FIRES_MAX) {
        throw new BrokerError('too_many_requests', `${FIRES_MAX} test-fires are under way here.`)
      }
      firing++
      try {
        const body = await fire(call.params, subscription, guard, message, call.signal)
        return { status: 200, body }
      } finally {
        firing--
      }
    },
  })
}

/** Throws invalid_request. */
function testMessage(fields: unknown, queue: string): PushMessage {
  const { draft, body } = readMessage(fields ?? { body: { test: true } }, queue)
  return {
    id: randomUUID(),
    deliveryCount: 1,
    record: {
      timeMs: Date.now(),
      expiresMs: 0,
      exchange: DEFAULT_EXCHANGE,
      routingKey: draft.routingKey,
      orderingKey: draft.orderingKey,
      persistent: draft.persistent,
      ttlMs: draft.ttlMs,
      properties: encodeProperties(draft.properties),
      body,
    },
  }
}

/** Who may configure and read a queue may have its messages pushed. Throws forbidden. */
function mayConsume(call: Call<object, unknown, unknown>, queue: string): void {
  for (const operation of ['configure', 'read'] as const) {
    call.require(operation, { kind: 'queue', name: queue })
  }
}

async function current(topology: Deps['topology'], vhost: string) {
  await topology.refresh()
  if (!topology.table.hasVhost(vhost)) {
    throw new BrokerError('vhost_not_found', `There is no vhost ${JSON.stringify(vhost)}.`)
  }
  return topology.table.documents
}

/** undefined for what no version of ours wrote. */
function read(value: Json): Subscription | undefined {
  return Subscription.safeParse(value).data
}

function notFound(name: string): BrokerError {
  const text = `There is no subscription ${JSON.stringify(name)}.`
  return new BrokerError('subscription_not_found', text)
}
