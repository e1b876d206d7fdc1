import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer, get, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { test } from 'node:test'
import { BrokerError } from '@sluice/core'
import { sendProblem, toProblem } from './problem.ts'

test('each way to authenticate is a challenge on a line of its own, as Chromium needs it', async (t) => {
  const server = createServer((req, res) => {
    sendProblem(req, res, toProblem(new BrokerError('unauthenticated', 'Who are you?')))
  })
  t.after(() => server.close())
  await once(server.listen(0, '127.0.0.1'), 'listening')
  const { port } = server.address() as AddressInfo
  const [answer] = (await once(get({ port, agent: false }), 'response')) as [IncomingMessage]
  answer.resume()
  const { rawHeaders } = answer
  const challenges = rawHeaders.filter((_, at) => rawHeaders[at - 1] === 'WWW-Authenticate')
  assert.deepEqual(challenges, ['Basic realm="sluice", charset="UTF-8"', 'Bearer'])
})
