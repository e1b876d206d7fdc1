/** A long stream of messages in one request. */
import assert from 'node:assert/strict'
import { Readable } from 'node:stream'
import { tell } from '../support/deployment.ts'

const LINES = 50_000

function* ndjson(): Generator<string, void> {
  for (let i = 0; i < LINES; i++) {
    yield `${JSON.stringify({ body: { n: i }, routingKey: i % 2 === 0 ? 'even' : 'odd' })}\n`
  }
}

tell([
  [
    'a batch of 50 000 lines is published as it streams, in order',
    async (vhost) => {
      await vhost.queue('even')
      await vhost.queue('all')
      await vhost.put('/exchanges/x', { type: 'topic' })
      await vhost.bind('x', 'even', { routingKey: 'even' })
      await vhost.bind('x', 'all', { routingKey: '#' })
      const answer = await vhost.router('POST', '/exchanges/x/batch', {
        body: Readable.from(ndjson()),
        headers: { 'Content-Type': 'application/x-ndjson' },
      })
      assert.equal(answer.status, 200, answer.text)
      const { published, failed, queues } = answer.json
      assert.deepEqual([published, failed], [LINES, 0])
      assert.deepEqual(queues, { all: LINES, even: LINES / 2 })
      assert.equal((await vhost.counts('all'))['ready'], LINES)

      const numbers = (await vhost.lease('all', { max: 1_000 })).map(
        ({ body }) => JSON.parse(body).n,
      )
      assert.deepEqual(
        numbers,
        Array.from({ length: 1_000 }, (_, i) => i),
      )
      assert.equal(
        (await vhost.delivery('DELETE', '/queues/all/messages')).json.messages,
        LINES - 1_000,
      )
    },
  ],
])
