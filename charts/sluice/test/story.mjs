// A message goes in, comes out and is acknowledged; `helm test` runs it inside the cluster.
const { SLUICE_URL, SLUICE_DELIVERY_URL, SLUICE_USER, SLUICE_PASSWORD } = process.env
const authorization = `Basic ${Buffer.from(`${SLUICE_USER}:${SLUICE_PASSWORD}`).toString('base64')}`
const queue = `/v1/vhosts/%2F/queues/helm-test-${process.pid}-${Date.now()}`

async function ask(base, method, path, body) {
  const headers = { authorization, 'content-type': 'application/json' }
  const signal = AbortSignal.timeout(30_000)
  const answer = await fetch(base + path, { method, headers, body, signal })
  const text = await answer.text()
  if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${text}`)
  return text === '' ? undefined : JSON.parse(text)
}

await ask(SLUICE_URL, 'PUT', queue, '{}')
try {
  await ask(SLUICE_URL, 'POST', `${queue}/messages`, '{"hello":"world"}')
  const lease = await ask(SLUICE_DELIVERY_URL, 'POST', `${queue}/leases`, '{"waitMs":20000}')
  const [message] = lease.messages
  if (message?.body !== '{"hello":"world"}') throw new Error(`leased ${JSON.stringify(lease)}`)
  const settlements = JSON.stringify({ settlements: [{ token: message.token, outcome: 'ack' }] })
  const settled = await ask(SLUICE_DELIVERY_URL, 'POST', `${queue}/settlements`, settlements)
  if (settled.outcomes[0] !== 'settled') throw new Error(`settled ${JSON.stringify(settled)}`)
  console.log('published, leased and acknowledged')
} finally {
  await ask(SLUICE_URL, 'DELETE', queue)
}
