import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { BrokerError } from '@sluice/core'
import { openStore } from '@sluice/store'
import { privateRedis, waitFor } from '@sluice/testkit'
import { openTopology } from './topology.ts'

async function setup(t: TestContext) {
  const { url } = await privateRedis(t, { aof: false })
  return async () => {
    const report = (error: unknown) => assert.fail(String(error))
    const store = await openStore({ url, report })
    const topology = await openTopology(store, report)
    t.after(async () => {
      await topology.close()
      await store.close()
    })
    return topology
  }
}

test('a document is created, replaced, removed, and seen by every process', async (t) => {
  const process = await setup(t)
  const [one, other] = [await process(), await process()]
  let told = 0
  t.after(other.watch(() => told++))

  const created = await one.changeDocument('ingest', '/', 'a/b c', () => ({ size: 1 }))
  assert.deepEqual(created, { before: undefined, after: { size: 1 } })
  await other.refresh()
  assert.deepEqual(other.table.documents.get('ingest', '/', 'a/b c'), { size: 1 })
  assert.ok(told > 0)
  assert.equal(other.table.documents.get('subscription', '/', 'a/b c'), undefined)

  await other.changeDocument('ingest', '/', 'a/b c', (now) => ({ ...(now as object), more: 2 }))
  await other.changeDocument('ingest', '/', 'A', () => ({}))
  await waitFor(async () => one.table.documents.list('ingest', '/').length === 2)
  assert.deepEqual(one.table.documents.list('ingest', '/'), [
    { name: 'A', value: {} },
    { name: 'a/b c', value: { size: 1, more: 2 } },
  ])
  const later = await process()
  assert.equal(later.table.documents.list('ingest', '/').length, 2, 'read anew')

  const { version } = one.table
  await one.changeDocument('ingest', '/', 'A', () => ({}))
  assert.equal(one.table.version, version, 'the same value changes nothing')
  await one.changeDocument('ingest', '/', 'A', () => null)
  assert.equal(one.table.documents.get('ingest', '/', 'A'), undefined)
})

test('changes of one document by many at once follow each other', async (t) => {
  const process = await setup(t)
  const processes = [await process(), await process(), await process()]
  const add = (now: unknown) => ((now as number | undefined) ?? 0) + 1
  const all = processes.flatMap((topology) =>
    Array.from({ length: 20 }, () => topology.changeDocument('user', '', 'ann', add)),
  )
  await Promise.all(all)
  await processes[0]!.refresh()
  assert.equal(processes[0]!.table.documents.get('user', '', 'ann'), 60)
})

test('documents need their vhost, go with it, and leave those of the broker', async (t) => {
  const topology = await (await setup(t))()
  const put = (vhost: string) => topology.changeDocument('permission', vhost, 'ann', () => 'all')
  await assert.rejects(
    put('gone'),
    (error) => error instanceof BrokerError && error.code === 'vhost_not_found',
  )
  await topology.declareVhost('v')
  await put('v')
  await put('')
  await topology.deleteVhost('v')
  await topology.declareVhost('v')
  assert.deepEqual(topology.table.documents.list('permission', 'v'), [])
  assert.equal(topology.table.documents.list('permission', '').length, 1)
})
