/** Where messages go, through public ports: bindings of every kind, refusals, policies, vhosts. */
import assert from 'node:assert/strict'
import { type Story, tell } from '../support/deployment.ts'

const NOW = { waitMs: 0 }

const publishing: Story[] = [
  [
    'a message is published, routed, leased and acknowledged',
    async (vhost) => {
      await vhost.put('/exchanges/orders')
      await vhost.queue('new')
      await vhost.bind('orders', 'new', { routingKey: 'created' })
      const headers = { 'Sluice-Header-tenant': 'blue', 'Sluice-Message-Id': 'm-1' }
      assert.deepEqual(await vhost.publish('orders', 'created', 'héllo', headers), ['new'])
      const message = await vhost.leaseOne('new')
      assert.equal(message.body, 'héllo')
      assert.deepEqual([message.exchange, message.routingKey], ['orders', 'created'])
      assert.deepEqual(message.headers, { tenant: 'blue' })
      assert.equal(await vhost.settle('new', message, { outcome: 'ack' }), 'settled')
      assert.equal(await vhost.settle('new', message, { outcome: 'ack' }), 'stale')
      assert.deepEqual(await vhost.counts('new'), { ready: 0, unacked: 0, delayed: 0, dead: 0 })
    },
  ],
  [
    'a topic exchange matches words, a headers exchange values, a fanout everything',
    async (vhost) => {
      for (const type of ['topic', 'headers', 'fanout'])
        await vhost.put(`/exchanges/${type}`, { type })
      for (const name of ['a', 'b', 'c']) await vhost.queue(name)
      await vhost.bind('topic', 'a', { routingKey: 'eu.*.created' })
      await vhost.bind('topic', 'b', { routingKey: 'eu.#' })
      await vhost.bind('headers', 'a', { arguments: { 'x-match': 'all', kind: 'x', size: '2' } })
      await vhost.bind('headers', 'b', { arguments: { 'x-match': 'any', kind: 'x', size: '9' } })
      for (const name of ['a', 'b', 'c']) await vhost.bind('fanout', name)
      assert.deepEqual(await vhost.publish('topic', 'eu.order.created', ''), ['a', 'b'])
      assert.deepEqual(await vhost.publish('topic', 'eu', ''), ['b'])
      assert.deepEqual(await vhost.publish('topic', 'us.order.created', ''), [])
      const both = { 'Sluice-Header-kind': 'x', 'Sluice-Header-size': '2' }
      assert.deepEqual(await vhost.publish('headers', '', '', both), ['a', 'b'])
      const one = { 'Sluice-Header-kind': 'x' }
      assert.deepEqual(await vhost.publish('headers', '', '', one), ['b'])
      assert.deepEqual(await vhost.publish('fanout', 'any', ''), ['a', 'b', 'c'])
    },
  ],
  [
    'exchanges pass on to exchanges, and to their alternate what nobody wanted',
    async (vhost) => {
      await vhost.put('/exchanges/rest', { type: 'fanout' })
      await vhost.put('/exchanges/first', { arguments: { 'alternate-exchange': 'rest' } })
      await vhost.put('/exchanges/second', { type: 'fanout', internal: true })
      for (const name of ['wanted', 'unwanted']) await vhost.queue(name)
      await vhost.bind('first', 'second', { destinationType: 'exchange', routingKey: 'k' })
      await vhost.bind('second', 'wanted')
      await vhost.bind('rest', 'unwanted')
      assert.deepEqual(await vhost.publish('first', 'k', ''), ['wanted'])
      assert.deepEqual(await vhost.publish('first', 'else', ''), ['unwanted'])
      const internal = await vhost.router('POST', '/exchanges/second/messages', { body: 'x' })
      assert.deepEqual([internal.status, internal.json.title], [403, 'forbidden'])
    },
  ],
  [
    'a mandatory message that no queue wants is refused with 422, any other is dropped',
    async (vhost) => {
      const options = { body: 'x', headers: { 'Sluice-Mandatory': 'true' } }
      const path = '/exchanges/amq.direct/messages?routingKey=nobody'
      const refused = await vhost.router('POST', path, options)
      assert.deepEqual([refused.status, refused.json.title], [422, 'unroutable'])
      assert.deepEqual(await vhost.publish('amq.direct', 'nobody', 'x'), [])
    },
  ],
  [
    'an idempotency key stores a message once, through whichever process',
    async (vhost, deployment) => {
      await vhost.queue('q')
      const path = '/queues/q/messages'
      const options = { body: 'x', headers: { 'Idempotency-Key': 'order-17' } }
      assert.equal((await vhost.router('POST', path, options)).json.duplicate, false)
      const again = deployment.elsewhere(vhost)
      assert.equal((await again.router('POST', path, options)).json.duplicate, true)
      assert.equal((await vhost.counts('q'))['ready'], 1)
    },
  ],
]

const keeping: Story[] = [
  [
    'a policy acts on a queue that runs, and stops acting when it is deleted',
    async (vhost, deployment) => {
      await vhost.queue('tasks')
      for (const body of ['1', '2', '3']) await vhost.send('tasks', body)
      const policy = {
        pattern: '^ta',
        definition: { 'max-length': 2, overflow: 'reject-publish', 'delivery-limit': 0 },
      }
      await vhost.put('/policies/short', policy)
      // Other processes hear of a policy within a second; one that shows a queue, at once.
      await deployment.elsewhere(vhost).router('GET', '/queues/tasks')
      const full = await deployment.elsewhere(vhost).router('POST', '/queues/tasks/messages', {
        body: 'x',
      })
      assert.deepEqual([full.status, full.json.title], [429, 'queue_full'])
      assert.ok(Number(full.headers['retry-after']) > 0)
      const failing = await vhost.leaseOne('tasks')
      const outcome = await vhost.settle('tasks', failing, { outcome: 'retry', delayMs: 0 })
      assert.equal(outcome, 'dead-lettered', 'the delivery limit of the policy')
      await vhost.router('DELETE', '/policies/short')
      for (const body of ['4', '5']) await vhost.send('tasks', body)
      assert.deepEqual(await vhost.drain('tasks'), ['2', '3', '4', '5'])
    },
  ],
  [
    'vhosts are worlds of their own',
    async (vhost, deployment) => {
      const other = await deployment.vhost()
      for (const each of [vhost, other]) await each.queue('q')
      await vhost.send('q', 'here')
      assert.deepEqual(await other.lease('q', NOW), [])
      const message = await vhost.leaseOne('q')
      assert.equal(await other.settle('q', message, { outcome: 'ack' }), 'stale')
      await other.router('DELETE', '')
      assert.equal((await other.router('GET', '/queues')).status, 404)
      assert.equal(await vhost.settle('q', message, { outcome: 'ack' }), 'settled')
    },
  ],
  [
    'a purge removes what is ready, and leaves what is held or delayed',
    async (vhost) => {
      await vhost.queue('q')
      for (const body of ['held', 'ready', 'ready']) await vhost.send('q', body)
      await vhost.send('q', 'delayed', { 'Sluice-Delay': 60_000 })
      const held = await vhost.leaseOne('q')
      const purged = await vhost.delivery('DELETE', '/queues/q/messages')
      assert.deepEqual(purged.json, { messages: 2 })
      assert.deepEqual(await vhost.counts('q'), { ready: 0, unacked: 1, delayed: 1, dead: 0 })
      assert.equal(await vhost.settle('q', held, { outcome: 'ack' }), 'settled')
    },
  ],
  [
    'a deleted queue is gone for every process, and the next of its name is empty',
    async (vhost, deployment) => {
      const there = deployment.elsewhere(vhost)
      await vhost.queue('q')
      await vhost.send('q', 'old')
      const [held] = await there.lease('q')
      await vhost.send('q', 'old')
      assert.equal((await vhost.router('DELETE', '/queues/q?ifEmpty=true')).status, 409)
      assert.deepEqual((await vhost.router('DELETE', '/queues/q')).json, { messages: 1 })
      assert.equal((await there.delivery('POST', '/queues/q/leases', { body: {} })).status, 404)
      assert.equal((await there.router('POST', '/queues/q/messages', { body: 'x' })).status, 404)
      await vhost.queue('q')
      assert.deepEqual(await there.lease('q', NOW), [])
      assert.equal(await there.settle('q', held!, { outcome: 'ack' }), 'stale')
    },
  ],
  [
    'lists and looks into a queue come page by page',
    async (vhost) => {
      for (const name of ['job.1', 'job.2', 'job.3', 'other']) await vhost.queue(name)
      const page = await vhost.router('GET', '/queues?name=job&page=2&pageSize=2')
      assert.equal(page.json.total, 3)
      assert.deepEqual(
        page.json.items.map(({ name }: { name: string }) => name),
        ['job.3'],
      )

      for (const body of ['1', '2', '3', '4', '5']) await vhost.send('job.1', body)
      const seen: string[] = []
      for (let after: string | undefined = ''; after !== undefined; ) {
        const query = `limit=2&after=${encodeURIComponent(after)}`
        const { json } = await vhost.delivery('GET', `/queues/job.1/messages?${query}`)
        seen.push(...json.messages.map(({ body }: { body: string }) => body))
        after = json.next
      }
      assert.deepEqual(seen, ['1', '2', '3', '4', '5'])
      assert.equal((await vhost.counts('job.1'))['ready'], 5, 'looking changes nothing')
    },
  ],
]

tell([...publishing, ...keeping])
