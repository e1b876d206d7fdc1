/**
 * Push subscriptions over HTTP: declared, shown, listed, deleted, paused, resumed and tried out.
 *
 * PUT replaces the whole document. Secrets are write-only (masking.ts).
 */
import { randomUUID } from 'node:crypto'
import { encodeProperties } from '@sluice/amqp'
import { BrokerError, DEFAULT_EXCHANGE, parseName } from '@sluice/core'
import { webhookPublicKey } from '@sluice/security'
import {
  type Call,
  type Deps,
  type DocumentSpec,
  documentRoutes,
  findDocument,
  MessageFields,
  noQueue,
  pauseRoutes,
  putDocument,
  REPLACE_ANSWERS,
  type Route,
  readMessage,
  route,
} from '@sluice/server'
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
const PATH = '/v1/vhosts/:vhost/subscriptions/:name'

const SubscriptionState = z
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
  const { topology } = parts
  const spec: DocumentSpec<Subscription> = {
    kind: 'subscription',
    tag,
    summaries: {
      list: 'List push subscriptions',
      show: 'Show a push subscription, its secrets masked',
      delete: 'Delete a push subscription; its queue stays, with what waits in it',
    },
    countMax: SUBSCRIPTIONS_MAX,
    absent: 'subscription_not_found',
    read: (value) => Subscription.safeParse(value).data,
    shown({ vhost, name }, subscription) {
      const { signing } = subscription
      const state = parts.stateOf(vhost, name)
      return {
        name,
        ...masked(subscription),
        ...(signing?.scheme === 'ed25519' && { publicKeys: signing.keys.map(webhookPublicKey) }),
        ...(state && { state }),
      }
    },
    schema: Shown,
    mayChange: (call, kept) => kept && mayConsume(call, kept.queue),
  }
  return [
    ...documentRoutes(topology, spec),
    putRoute(parts, spec),
    ...pauseRoutes(topology, spec, {
      pause: {
        summary: 'Pause a push subscription',
        description: 'What is under way ends; nothing else is sent. Messages wait in their queue.',
      },
      resume: { summary: 'Resume a push subscription', description: 'Sends again, in its shape.' },
    }),
    testRoute(parts, spec),
  ]
}

function putRoute({ topology, guard }: Parts, spec: DocumentSpec<Subscription>): Route {
  return route({
    method: 'put',
    path: PATH,
    needs: 'vhost',
    tag,
    summary: 'Declare or replace a push subscription',
    description: 'From a queue to an HTTP endpoint. A change acts at once, in every process.',
    body: Subscription,
    answers: REPLACE_ANSWERS,
    refusals: ['vhost_not_found', 'queue_not_found', 'forbidden'],
    async handle(call) {
      const { body, params } = call
      parseName('subscription', params.name)
      mayConsume(call, body.queue)
      const refusal = guard.refusal(new URL(body.endpoint.url).hostname)
      if (refusal) throw new BrokerError('invalid_request', refusal.message)
      return putDocument(topology, spec, call, (kept, table) => {
        if (!table.queue(params.vhost, body.queue)) throw noQueue(body.queue)
        return unmasked(body, kept)
      })
    },
  })
}

const TestBody = z.strictObject({
  message: MessageFields.optional().meta({
    description: 'As in a batch. Without it, a small JSON message is sent.',
  }),
})

function testRoute({ topology, guard }: Parts, spec: DocumentSpec<Subscription>): Route {
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
      const subscription = await findDocument(topology, spec, call.params)
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
