/**
 * A broker as others meet it, through its public ports only: all services in one process, or each
 * in its own. A story is written once and told to both.
 */
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { type TestContext, test } from 'node:test'
import { privateRedis } from '@sluice/testkit'
import { type Answer, type HttpClient, httpClient, type RequestOptions } from './http.ts'
import { type ServiceProcess, startProcess } from './processes.ts'

export interface Leased {
  readonly id: string
  readonly token: string
  readonly body: string
  readonly exchange: string
  readonly routingKey: string
  // biome-ignore lint/suspicious/noExplicitAny: headers are of any shape
  readonly headers: any
  readonly deliveryCount: number
  readonly failedCount: number
  readonly redelivered: boolean
}

export type Settlement = { readonly outcome: string } & Readonly<Record<string, unknown>>

/** The API of one vhost, each request through a process that serves it. */
export class Vhost {
  readonly name: string
  readonly #publishing: HttpClient
  readonly #consuming: HttpClient

  constructor(name: string, publishing: HttpClient, consuming: HttpClient) {
    this.name = name
    this.#publishing = publishing
    this.#consuming = consuming
  }

  /** Topology and publishing: the router's. `path` starts below the vhost. */
  router(method: string, path: string, options?: RequestOptions): Promise<Answer> {
    return this.#publishing.request(method, this.#at(path), options)
  }

  /** Consuming and looking into queues: the delivery's. */
  delivery(method: string, path: string, options?: RequestOptions): Promise<Answer> {
    return this.#consuming.request(method, this.#at(path), options)
  }

  /** Fails unless it is created. */
  async put(path: string, body: unknown = {}): Promise<void> {
    const { status, text } = await this.router('PUT', path, { body })
    assert.equal(status, 201, `${path}: ${text}`)
  }

  queue(name: string, args: Readonly<Record<string, unknown>> = {}): Promise<void> {
    return this.put(`/queues/${name}`, { arguments: args })
  }

  bind(source: string, destination: string, rest: Readonly<Record<string, unknown>> = {}) {
    return this.put('/bindings', { source, destination, ...rest })
  }

  /** The names of the queues reached. Fails unless the publish is confirmed. */
  async publish(
    exchange: string,
    routingKey: string,
    body: string,
    headers: Readonly<Record<string, string | number>> = {},
  ): Promise<string[]> {
    const answer = await this.router('POST', `/exchanges/${exchange}/messages`, {
      body,
      headers: { 'Content-Type': 'text/plain', 'Sluice-Routing-Key': routingKey, ...headers },
    })
    assert.equal(answer.status, 200, answer.text)
    return answer.json.queues.toSorted()
  }

  /** Publishes to one queue through the default exchange. */
  send(queue: string, body: string, headers: Readonly<Record<string, string | number>> = {}) {
    return this.publish('amq.default', queue, body, headers)
  }

  async lease(queue: string, options: Readonly<Record<string, unknown>> = {}): Promise<Leased[]> {
    const body = { max: 100, waitMs: 10_000, ...options }
    const answer = await this.delivery('POST', `/queues/${queue}/leases`, { body })
    assert.equal(answer.status, 200, answer.text)
    return answer.json.messages
  }

  async leaseOne(queue: string, options: Readonly<Record<string, unknown>> = {}): Promise<Leased> {
    const [message] = await this.lease(queue, { ...options, max: 1 })
    return message ?? assert.fail(`nothing came from ${queue}`)
  }

  async settle(queue: string, { token }: Leased, settlement: Settlement): Promise<string> {
    const settlements = [{ token, ...settlement }]
    const answer = await this.delivery('POST', `/queues/${queue}/settlements`, {
      body: { settlements },
    })
    assert.equal(answer.status, 200, answer.text)
    return answer.json.outcomes[0]
  }

  /** Leases what is there, acknowledges it, and returns the bodies. */
  async drain(queue: string, options: Readonly<Record<string, unknown>> = {}): Promise<string[]> {
    const messages = await this.lease(queue, options)
    for (const message of messages) await this.settle(queue, message, { outcome: 'ack' })
    return messages.map(({ body }) => body)
  }

  /** ready, unacked, delayed and dead. */
  async counts(queue: string): Promise<Record<string, number>> {
    const answer = await this.router('GET', `/queues/${queue}`)
    assert.equal(answer.status, 200, answer.text)
    const { bytes: _, ...counts } = answer.json.messages
    return counts
  }

  #at(path: string): string {
    return `/v1/vhosts/${encodeURIComponent(this.name)}${path}`
  }
}

/** Where requests go: several processes may serve the same. */
export interface Deployment {
  readonly routers: readonly HttpClient[]
  readonly deliveries: readonly HttpClient[]
  readonly processes: readonly ServiceProcess[]
  /** '' = not known, as somebody else runs it. */
  readonly redisUrl: string
  /** A new vhost, through the first router and the first delivery process. */
  vhost(): Promise<Vhost>
  /** The same vhost, through the last of each: other processes, where there are any. */
  elsewhere(vhost: Vhost): Vhost
}

export const LAYOUTS = {
  'one process': ['router delivery reaper'],
  'separate processes': ['router', 'router', 'delivery', 'delivery', 'reaper'],
} as const

/**
 * Starts the processes named, and ends them with the test. Their Redis is their own unless told:
 * any process does the work of any vhost, so those of other tests, with other settings or about to
 * be killed, would take part.
 */
export async function deploy(
  t: TestContext,
  lists: readonly string[],
  options: { redisUrl?: string; env?: Readonly<Record<string, string>> } = {},
): Promise<Deployment> {
  const redisUrl = options.redisUrl ?? (await privateRedis(t, { aof: false })).url
  const env = { SLUICE_REAPER_PASS_MS: '200', ...options.env }
  const starting = lists.map((services, index) =>
    startProcess(t, {
      redisUrl,
      env,
      services: services.split(' '),
      name: `${services} #${index}`,
    }),
  )
  await Promise.allSettled(starting) // none may start while the test already ends
  const processes = await Promise.all(starting)
  const clients = processes.map((process) => httpClient(() => process.http))
  t.after(() => {
    for (const client of clients) client.close()
  })
  const serving = (service: string) =>
    clients.filter((_, index) => lists[index]!.split(' ').includes(service))
  return deploymentOf(serving('router'), serving('delivery'), processes, redisUrl)
}

function deploymentOf(
  routers: readonly HttpClient[],
  deliveries: readonly HttpClient[],
  processes: readonly ServiceProcess[],
  redisUrl = '',
): Deployment {
  return {
    routers,
    deliveries,
    processes,
    redisUrl,
    vhost: async () => {
      const vhost = new Vhost(`e2e-${randomUUID()}`, routers[0]!, deliveries[0]!)
      await vhost.put('')
      return vhost
    },
    elsewhere: ({ name }) => new Vhost(name, routers.at(-1)!, deliveries.at(-1)!),
  }
}

export type Story = readonly [
  title: string,
  tell: (vhost: Vhost, deployment: Deployment) => Promise<void>,
]

/** A broker that somebody else runs. */
function deployedAt(t: TestContext, router: string, delivery: string): Deployment {
  const routers = [httpClient(router)]
  const deliveries = [httpClient(delivery)]
  t.after(() => {
    for (const client of [...routers, ...deliveries]) client.close()
  })
  return deploymentOf(routers, deliveries, [])
}

/**
 * Tells the stories to each layout: one after the other in the same processes. With E2E_ROUTER and
 * E2E_DELIVERY, two base URLs, to the broker there instead.
 */
export function tell(stories: readonly Story[]): void {
  const { E2E_ROUTER: router, E2E_DELIVERY: delivery } = process.env
  const layouts =
    router !== undefined && delivery !== undefined
      ? { [router]: async (t: TestContext) => deployedAt(t, router, delivery) }
      : Object.fromEntries(
          Object.entries(LAYOUTS).map(([layout, services]) => [
            layout,
            (t: TestContext) => deploy(t, services),
          ]),
        )
  for (const [layout, open] of Object.entries(layouts)) {
    test(layout, async (t) => {
      const deployment = await open(t)
      for (const [title, story] of stories) {
        await t.test(title, async () => {
          const vhost = await deployment.vhost()
          await story(vhost, deployment)
          assert.equal((await vhost.router('DELETE', '')).status, 204)
        })
      }
    })
  }
}
