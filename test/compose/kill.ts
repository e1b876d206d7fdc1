/** Kills every container of the stack while messages flow: what was confirmed comes out. */
import assert from 'node:assert/strict'
import { setTimeout as sleep } from 'node:timers/promises'
import { waitFor } from '@sluice/testkit'
import type { HttpClient } from '../support/http.ts'
import type { Stack } from './engine.ts'

const VICTIMS = ['router', 'delivery', 'reaper', 'redis'] as const
const QUEUE = '/v1/vhosts/%2F/queues/killed'
const LEASE_MS = 3_000
const PAUSE_MS = 200
const DRAIN_MS_MAX = 120_000

export async function killUnderLoad(
  stack: Stack,
  router: HttpClient,
  delivery: HttpClient,
  say: (line: string) => void,
): Promise<void> {
  const declared = await router.request('PUT', QUEUE, { body: {} })
  assert.equal(declared.status, 201, declared.text)
  const killing = new AbortController()
  const confirmed = new Set<string>()
  const publishing = publish(router, confirmed, killing.signal)
  const seen = new Map<string, number>()
  const drained = new AbortController()
  const consuming = consume(delivery, seen, { hurry: killing.signal, stop: drained.signal })
  try {
    for (const victim of VICTIMS) {
      await sleep(1_000)
      const id = await stack.container(victim)
      await stack.docker('kill', id)
      const before = confirmed.size
      assert.ok(before > seen.size, 'nothing waits: there is nothing to lose')
      await stack.docker('start', id)
      const flows = () => confirmed.size > before + 20
      await waitFor(flows, { what: `messages after ${victim} died`, timeoutMs: DRAIN_MS_MAX })
      say(`killed ${victim}`)
    }
  } finally {
    killing.abort()
    await publishing
  }
  try {
    const allSeen = () => [...confirmed].every((body) => seen.has(body))
    await waitFor(allSeen, { what: 'every confirmed message', timeoutMs: DRAIN_MS_MAX })
  } finally {
    drained.abort()
    await consuming
  }
  const twice = [...seen.values()].filter((times) => times > 1).length
  say(`${confirmed.size} messages confirmed, none lost, ${twice} delivered again`)
}

/** One after the other, each sent until it is confirmed. */
async function publish(router: HttpClient, confirmed: Set<string>, stop: AbortSignal) {
  for (let number = 0; !stop.aborted; number += 1) {
    const body = `message ${number}`
    const headers = { 'Idempotency-Key': body, 'Content-Type': 'text/plain' }
    const send = () =>
      router.request('POST', `${QUEUE}/messages`, { body, headers }).then(
        ({ status }) => status === 200,
        () => false,
      )
    while (!(await send()) && !stop.aborted) await sleep(PAUSE_MS)
    if (!stop.aborted) confirmed.add(body)
    await sleep(5)
  }
}

/** Counts how often each message came. Slower than they are published until it is to hurry. */
async function consume(
  delivery: HttpClient,
  seen: Map<string, number>,
  { hurry, stop }: { hurry: AbortSignal; stop: AbortSignal },
) {
  while (!stop.aborted) {
    try {
      const request = { max: hurry.aborted ? 100 : 3, waitMs: 500, leaseMs: LEASE_MS }
      const leased = await delivery.request('POST', `${QUEUE}/leases`, { body: request })
      const messages: { body: string; token: string }[] = leased.json?.messages ?? []
      for (const { body } of messages) seen.set(body, (seen.get(body) ?? 0) + 1)
      const settlements = messages.map(({ token }) => ({ token, outcome: 'ack' }))
      if (settlements.length > 0) {
        await delivery.request('POST', `${QUEUE}/settlements`, { body: { settlements } })
      }
      if (leased.status !== 200 || !hurry.aborted) await sleep(PAUSE_MS)
    } catch {
      await sleep(PAUSE_MS) // it is being killed; what was leased comes again
    }
  }
}
