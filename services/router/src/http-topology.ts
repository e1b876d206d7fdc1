/**
 * Vhosts, exchanges, bindings and policies over HTTP; queues are in http-queues.ts.
 *
 * PUT declares: 201 when that created it, 200 when it was there just so, 409 when it was there
 * differently. DELETE answers 204, also when there was nothing to delete. Reads show every change
 * that was made, anywhere, before they were asked.
 */
import {
  BrokerError,
  DEFAULT_EXCHANGE,
  DEFAULT_EXCHANGE_ALIAS,
  type ErrorCode,
  exchangeName,
  limits,
} from '@sluice/core'
import {
  type Call,
  DELETE_ANSWERS,
  type Deps,
  noExchange,
  noVhost,
  PageQuery,
  pageOf,
  pageOn,
  REPLACE_ANSWERS,
  type Route,
  route,
} from '@sluice/server'
import {
  type BindingDefinition,
  EXCHANGE_TYPES,
  type ExchangeDefinition,
  type RoutingTable,
} from '@sluice/topology'
import { z } from 'zod'

export const Arguments = z.record(z.string(), z.json()).default({})

/** A limit; -1 = none. */
export const Most = z.int().min(-1)

const VhostBody = z.strictObject({
  tolerantRedeclare: z.boolean().optional().meta({
    description:
      'Declaring a queue or exchange that is there differently is a warning in the log, not a refusal.',
  }),
  holdEta: z.boolean().optional().meta({
    description: 'AMQP messages with a header `eta` (ISO 8601) are delivered at that time.',
  }),
  maxConnections: Most.optional().meta({
    description: 'AMQP connections, over all processes; -1 = any number.',
  }),
  maxQueues: Most.optional().meta({ description: 'Queues; -1 = any number.' }),
  encryption: z.boolean().optional().meta({
    description: 'What is stored in its queues from here on is encrypted (docs/encryption.md).',
  }),
})
const Vhost = VhostBody.required().extend({ name: z.string() }).meta({ id: 'Vhost' })

const ExchangeBody = z.strictObject({
  type: z.enum(EXCHANGE_TYPES).default('direct'),
  durable: z.boolean().default(true),
  autoDelete: z.boolean().default(false),
  internal: z.boolean().default(false).meta({ description: 'Only exchanges publish to it.' }),
  arguments: Arguments,
})
const Exchange = ExchangeBody.extend({ name: z.string(), policy: z.string().optional() }).meta({
  id: 'Exchange',
})

const BindingBody = z.strictObject({
  source: z.string().max(limits.NAME_BYTES_MAX).meta({ description: 'The exchange bound from.' }),
  destination: z.string().max(limits.NAME_BYTES_MAX),
  destinationType: z.enum(['queue', 'exchange']).default('queue'),
  routingKey: z.string().max(limits.NAME_BYTES_MAX).default(''),
  arguments: Arguments,
})
const Binding = BindingBody.meta({ id: 'Binding' })

const PolicyBody = z.strictObject({
  pattern: z.string().meta({ description: 'A regular expression that finds the names it is for.' }),
  applyTo: z.enum(['queues', 'exchanges', 'all']).default('all'),
  priority: z
    .int()
    .min(-(2 ** 31))
    .max(2 ** 31 - 1)
    .default(0)
    .meta({
      description: 'Of several that match, the highest one applies.',
    }),
  definition: z.record(z.string(), z.json()),
})
const Policy = PolicyBody.extend({ name: z.string() }).meta({ id: 'Policy' })

export const PUT_ANSWERS = {
  201: { description: 'Created.' },
  200: { description: 'It was there just so.' },
} as const
export const DECLARE_REFUSALS: readonly ErrorCode[] = [
  'vhost_not_found',
  'declaration_conflict',
  'forbidden',
]
export const declared = (created: boolean) => ({ status: created ? 201 : 200 })

export function topologyRoutes({ topology, access }: Deps): Route[] {
  const current = async () => {
    await topology.refresh()
    return topology.table
  }
  return [
    ...vhostRoutes({ topology, access }, current),
    ...exchangeReads(current),
    ...exchangeWrites({ topology }),
    ...bindingReads(current),
    ...bindingWrites({ topology }),
    ...policyRoutes({ topology }, current),
  ]
}

type Parts = Pick<Deps, 'topology'>

type Current = () => Promise<Deps['topology']['table']>

const tag = 'topology'

function vhostRoutes(
  { topology, access }: Pick<Deps, 'topology' | 'access'>,
  current: Current,
): Route[] {
  const path = '/v1/vhosts/:vhost'
  return [
    route({
      method: 'get',
      path: '/v1/vhosts',
      tag,
      needs: 'login',
      summary: 'List vhosts that the caller may enter, or all of them to who may monitor',
      query: PageQuery,
      answers: { 200: { description: 'A page of them.', body: pageOf(Vhost) } },
      async handle({ query, principal }) {
        const table = await current()
        const all = access.tags(principal).has('monitoring')
        const seen = table.vhosts().filter((name) => all || access.enters(principal, name))
        const page = pageOn(seen, (name) => name, query)
        const items = page.items.map((name) => ({ name, ...table.vhostOptions(name) }))
        return { status: 200, body: { ...page, items } }
      },
    }),
    route({
      method: 'get',
      path,
      tag,
      needs: 'vhost',
      summary: 'Show a vhost',
      answers: { 200: { description: 'It is there.', body: Vhost } },
      refusals: ['vhost_not_found'],
      async handle({ params: { vhost } }) {
        const table = await current()
        if (!table.hasVhost(vhost)) throw noVhost(vhost)
        return { status: 200, body: { name: vhost, ...table.vhostOptions(vhost) } }
      },
    }),
    route({
      method: 'put',
      path,
      tag,
      needs: 'administrator',
      summary: 'Declare a vhost, with its predeclared exchanges, or set its options',
      body: VhostBody,
      answers: REPLACE_ANSWERS,
      handle: async ({ params: { vhost }, body }) =>
        declared((await topology.declareVhost(vhost, body)).created),
    }),
    route({
      method: 'delete',
      path,
      tag,
      needs: 'administrator',
      summary: 'Delete a vhost with all that is in it, messages included',
      answers: DELETE_ANSWERS,
      async handle({ params: { vhost } }) {
        await topology.deleteVhost(vhost)
        return { status: 204 }
      },
    }),
  ]
}

const EXCHANGE_PATH = '/v1/vhosts/:vhost/exchanges/:exchange'

function exchangeReads(current: Current): Route[] {
  return [
    route({
      method: 'get',
      path: '/v1/vhosts/:vhost/exchanges',
      tag,
      needs: 'vhost',
      summary: 'List exchanges',
      query: PageQuery,
      answers: { 200: { description: 'A page of them.', body: pageOf(Exchange) } },
      refusals: ['vhost_not_found'],
      async handle({ params: { vhost }, query }) {
        const table = await current()
        const page = pageOn(
          table.exchanges(vhost),
          ({ name }) => name || DEFAULT_EXCHANGE_ALIAS,
          query,
        )
        const items = page.items.map((exchange) => shownExchange(table, vhost, exchange))
        return { status: 200, body: { ...page, items } }
      },
    }),
    route({
      method: 'get',
      path: EXCHANGE_PATH,
      tag,
      needs: 'vhost',
      summary: 'Show an exchange',
      answers: { 200: { description: 'The exchange.', body: Exchange } },
      refusals: ['vhost_not_found', 'exchange_not_found'],
      async handle({ params: { vhost, exchange } }) {
        const table = await current()
        if (!table.hasVhost(vhost)) throw noVhost(vhost)
        const found = table.exchange(vhost, exchangeName(exchange))
        if (!found) throw noExchange(exchange)
        return { status: 200, body: shownExchange(table, vhost, found) }
      },
    }),
  ]
}

function exchangeWrites({ topology }: Parts): Route[] {
  return [
    route({
      method: 'put',
      path: EXCHANGE_PATH,
      tag,
      needs: { configure: 'exchange' },
      summary: 'Declare an exchange',
      body: ExchangeBody,
      answers: PUT_ANSWERS,
      refusals: DECLARE_REFUSALS,
      async handle(call) {
        const { vhost, exchange } = call.params
        const { body } = call
        const name = exchangeName(exchange)
        const alternate = body.arguments['alternate-exchange']
        if (typeof alternate === 'string') {
          call.require('read', { kind: 'exchange', name })
          call.require('write', { kind: 'exchange', name: alternate })
        }
        return declared((await topology.declareExchange(vhost, { name, ...body })).created)
      },
    }),
    route({
      method: 'delete',
      path: EXCHANGE_PATH,
      tag,
      needs: { configure: 'exchange' },
      summary: 'Delete an exchange and its bindings',
      query: z.strictObject({
        ifUnused: z
          .stringbool()
          .default(false)
          .meta({ description: 'Only if nothing is bound from it.' }),
      }),
      answers: DELETE_ANSWERS,
      refusals: ['vhost_not_found', 'in_use', 'forbidden'],
      async handle({ params: { vhost, exchange }, query }) {
        await topology.deleteExchange(vhost, exchangeName(exchange), query)
        return { status: 204 }
      },
    }),
  ]
}

const BINDINGS_PATH = '/v1/vhosts/:vhost/bindings'

function bindingReads(current: Current): Route[] {
  return [
    route({
      method: 'get',
      path: BINDINGS_PATH,
      tag,
      needs: 'vhost',
      summary: 'List bindings',
      description:
        'Every queue is also bound to the default exchange by its name; that is not listed.',
      query: PageQuery.extend({
        source: z.string().optional().meta({ description: 'Only those of this exchange.' }),
        destination: z
          .string()
          .optional()
          .meta({ description: 'Only those to this queue or exchange.' }),
      }),
      answers: {
        200: {
          description: 'A page of them; names are those of routing keys.',
          body: pageOf(Binding),
        },
      },
      refusals: ['vhost_not_found'],
      async handle({ params: { vhost }, query: { source, destination, ...query } }) {
        const all = (await current()).bindings(
          vhost,
          source === undefined ? {} : { source: exchangeName(source) },
        )
        const wanted = all
          .filter((binding) => destination === undefined || binding.destination === destination)
          .sort((a, b) => (sortKey(a) < sortKey(b) ? -1 : 1))
        return { status: 200, body: pageOn(wanted, ({ routingKey }) => routingKey, query) }
      },
    }),
  ]
}

function bindingWrites({ topology }: Parts): Route[] {
  const refusals = [
    'vhost_not_found',
    'exchange_not_found',
    'queue_not_found',
    'forbidden',
  ] as const
  const named = ({ source, ...rest }: z.output<typeof BindingBody>): BindingDefinition => ({
    source: exchangeName(source),
    ...rest,
  })
  return [
    route({
      method: 'put',
      path: BINDINGS_PATH,
      tag,
      needs: 'vhost',
      summary: 'Bind a queue or an exchange to an exchange',
      body: BindingBody,
      answers: PUT_ANSWERS,
      refusals,
      async handle(call) {
        const binding = named(call.body)
        requireEnds(call, topology.table, binding)
        return declared((await topology.bind(call.params.vhost, binding)).created)
      },
    }),
    route({
      method: 'delete',
      path: BINDINGS_PATH,
      tag,
      needs: 'vhost',
      summary: 'Delete a binding: the one that has all these fields',
      body: BindingBody,
      answers: DELETE_ANSWERS,
      refusals: ['vhost_not_found', 'forbidden'],
      async handle(call) {
        const binding = named(call.body)
        requireEnds(call, topology.table, binding)
        await topology.unbind(call.params.vhost, binding)
        return { status: 204 }
      },
    }),
  ]
}

/** Binding writes to the destination and reads from the source. */
function requireEnds(
  call: Call<{ vhost: string }, unknown, unknown>,
  table: RoutingTable,
  { source, destination, destinationType, routingKey }: BindingDefinition,
): void {
  call.require('write', { kind: destinationType, name: destination })
  const topic = table.exchange(call.params.vhost, source)?.type === 'topic'
  call.require('read', { kind: 'exchange', name: source }, topic ? routingKey : undefined)
}

function policyRoutes({ topology }: Parts, current: Current): Route[] {
  const path = '/v1/vhosts/:vhost/policies/:policy'
  return [
    route({
      method: 'get',
      path: '/v1/vhosts/:vhost/policies',
      tag,
      needs: 'vhost',
      summary: 'List policies',
      query: PageQuery,
      answers: { 200: { description: 'A page of them.', body: pageOf(Policy) } },
      refusals: ['vhost_not_found'],
      async handle({ params: { vhost }, query }) {
        return {
          status: 200,
          body: pageOn((await current()).policies(vhost), ({ name }) => name, query),
        }
      },
    }),
    route({
      method: 'get',
      path,
      tag,
      needs: 'vhost',
      summary: 'Show a policy',
      answers: { 200: { description: 'The policy.', body: Policy } },
      refusals: ['vhost_not_found', 'policy_not_found'],
      async handle({ params: { vhost, policy } }) {
        const table = await current()
        if (!table.hasVhost(vhost)) throw noVhost(vhost)
        const found = table.policy(vhost, policy)
        if (!found) {
          throw new BrokerError('policy_not_found', `There is no policy ${JSON.stringify(policy)}.`)
        }
        return { status: 200, body: found }
      },
    }),
    route({
      method: 'put',
      path,
      tag,
      needs: 'policymaker',
      summary: 'Create or replace a policy; it acts on existing queues at once',
      body: PolicyBody,
      answers: REPLACE_ANSWERS,
      refusals: ['vhost_not_found'],
      async handle({ params: { vhost, policy }, body }) {
        return declared((await topology.putPolicy(vhost, { name: policy, ...body })).created)
      },
    }),
    route({
      method: 'delete',
      path,
      tag,
      needs: 'policymaker',
      summary: 'Delete a policy',
      answers: DELETE_ANSWERS,
      refusals: ['vhost_not_found'],
      async handle({ params: { vhost, policy } }) {
        await topology.deletePolicy(vhost, policy)
        return { status: 204 }
      },
    }),
  ]
}

function shownExchange(
  table: Deps['topology']['table'],
  vhost: string,
  exchange: ExchangeDefinition,
) {
  const policy = table.exchangePolicy(vhost, exchange.name)?.name
  const name = exchange.name === DEFAULT_EXCHANGE ? DEFAULT_EXCHANGE_ALIAS : exchange.name
  return { ...exchange, name, ...(policy !== undefined && { policy }) }
}

function sortKey({ source, destinationType, destination, routingKey }: BindingDefinition): string {
  return [source, destinationType, destination, routingKey].join('\0')
}
