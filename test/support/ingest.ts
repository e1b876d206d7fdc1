/**
 * Ingests for tests: two routers in processes of their own, and what push would note.
 */
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { type IncomingMessage, request } from 'node:http'
import { text } from 'node:stream/consumers'
import type { TestContext } from 'node:test'
import { type KeptAnswer, openStore, type RequestState } from '@sluice/store'
import { waitFor } from '@sluice/testkit'
import { type Deployment, deploy, type Leased, type Vhost } from './deployment.ts'
import type { Answer, HttpClient } from './http.ts'
import type { ServiceProcess } from './processes.ts'

export interface World extends Deployment {
  readonly here: HttpClient
  readonly there: HttpClient
  /** What push does once the backend has answered, or has not. */
  readonly note: (id: string, state: RequestState, answer?: Partial<KeptAnswer>) => Promise<unknown>
}

async function start(t: TestContext): Promise<World> {
  const deployment = await deploy(t, ['router', 'router', 'delivery', 'reaper'])
  const store = await openStore({
    url: deployment.redisUrl,
    report: (error) => assert.fail(String(error)),
  })
  t.after(() => store.close())
  const [here, there] = deployment.routers as [HttpClient, HttpClient]
  const note: World['note'] = (id, state, answer) =>
    store.requests.note(id, state, {
      keepMs: 60_000,
      record: { vhost: '/', ingest: 'x', open: false },
      ...(answer && {
        answer: {
          status: 200,
          headers: [],
          body: Buffer.alloc(0),
          truncated: false,
          atMs: 1,
          ...answer,
        },
      }),
    })
  return { ...deployment, here, there, note }
}

/** An ingest of its own, known to both routers; where its requests go. */
export async function ingest(
  { here, there }: World,
  vhost: Vhost,
  document: Readonly<Record<string, unknown>> = {},
): Promise<{ name: string; at: string }> {
  const name = `i-${randomUUID()}`
  await vhost.put(`/ingests/${name}`, { queue: 'q', open: true, ...document })
  const at = `/ingest/${name}`
  const tooLong = { 'Idempotency-Key': 'x'.repeat(256) }
  for (const router of [here, there]) {
    const known = async () =>
      (await router.request('POST', at, { headers: tooLong })).status === 400
    await waitFor(known)
  }
  return { name, at }
}

export async function accepted(answer: Promise<Answer>): Promise<string> {
  const { status, text, json, headers } = await answer
  assert.equal(status, 202, text)
  assert.equal(headers['location'], `/v1/requests/${json.id}`)
  return json.id
}

/** With a path that nobody puts in order first. */
export async function exact(
  { http }: ServiceProcess,
  method: string,
  path: string,
  options: { headers?: Record<string, string>; body?: string } = {},
): Promise<{ status: number; text: string; location: string }> {
  const { hostname, port } = new URL(http)
  const { body } = options
  const length = body === undefined ? {} : { 'Content-Length': body.length }
  const headers = { ...options.headers, ...length }
  const req = request({ hostname, port, method, path, headers, agent: false })
  req.end(body)
  const [res] = (await once(req, 'response')) as [IncomingMessage]
  return { status: res.statusCode!, text: await text(res), location: res.headers['location'] ?? '' }
}

export async function leaseAll(vhost: Vhost): Promise<Leased[]> {
  const all: Leased[] = []
  for (;;) {
    const some = await vhost.lease('q', { waitMs: 0 })
    if (some.length === 0) return all
    all.push(...some)
  }
}

export function problem({ status, json, text }: Answer): [number, string] {
  assert.equal(json?.status, status, text)
  return [status, json.title]
}

/** A title, and what is done in a vhost of its own. */
export type IngestStory = readonly [
  title: string,
  tell: (world: World, vhost: Vhost, t: TestContext) => Promise<void>,
]

/** Tells the stories one after the other, to the same processes. */
export async function tellStories(t: TestContext, stories: readonly IngestStory[]): Promise<void> {
  const world = await start(t)
  for (const [title, story] of stories) {
    await t.test(title, async (t) => {
      const vhost = await world.vhost()
      await story(world, vhost, t)
      assert.equal((await vhost.router('DELETE', '')).status, 204)
    })
  }
}
