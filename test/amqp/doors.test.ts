/** The ways in for AMQP: TCP, TLS with and without a client certificate, and WebSocket. */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { type TestContext, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { AMQPWebSocketClient } from '@cloudamqp/amqp-client'
import { connect } from 'amqplib'
import { PASSWORD, withBroker } from '../support/broker.ts'

const USER = 'admin'

const file = (name: string) => fileURLToPath(new URL(`../support/tls/${name}`, import.meta.url))
const pem = (name: string) => readFileSync(file(name))

async function setup(t: TestContext) {
  const broker = await withBroker(t, {
    env: {
      SLUICE_AMQPS_PORT: '0',
      SLUICE_TLS_CERT: file('server.pem'),
      SLUICE_TLS_KEY: file('server-key.pem'),
      SLUICE_TLS_CLIENT_CA: file('ca.pem'),
    },
  })
  const url = (door: string) => {
    const { protocol, hostname, port } = new URL(broker.doors[door]!)
    const credential = `${USER}:${encodeURIComponent(PASSWORD)}`
    return `${protocol}//${credential}@${hostname}:${port}/${encodeURIComponent(broker.vhost)}`
  }
  return { broker, url }
}

/** Publishes a message and gets it back. */
async function roundTrip(url: string, options: object = {}): Promise<string | undefined> {
  const connection = await connect(url, options)
  try {
    const channel = await connection.createConfirmChannel()
    const { queue } = await channel.assertQueue('', { exclusive: true })
    channel.sendToQueue(queue, Buffer.from('hello'))
    await channel.waitForConfirms()
    const message = await channel.get(queue, { noAck: true })
    return message ? message.content.toString() : undefined
  } finally {
    await connection.close()
  }
}

test('a message goes in and out over TCP and over TLS', async (t) => {
  const { url } = await setup(t)
  assert.equal(await roundTrip(url('amqp')), 'hello')
  assert.equal(await roundTrip(url('amqps'), { ca: [pem('ca.pem')] }), 'hello')
})

test('a client certificate proves its user, without a password', async (t) => {
  const { url } = await setup(t)
  const external = { mechanism: 'EXTERNAL', response: () => Buffer.from('') }
  const certified = {
    ca: [pem('ca.pem')],
    cert: pem('client.pem'),
    key: pem('client-key.pem'),
    credentials: external,
  }
  assert.equal(await roundTrip(url('amqps'), certified), 'hello')
  await assert.rejects(
    roundTrip(url('amqps'), { ca: [pem('ca.pem')], credentials: external }),
    /mechanism/i,
    'without a certificate the mechanism is not offered',
  )
})

test('a wrong password is refused over TLS too', async (t) => {
  const { url } = await setup(t)
  const wrong = url('amqps').replace(encodeURIComponent(PASSWORD), 'wrong')
  await assert.rejects(roundTrip(wrong, { ca: [pem('ca.pem')] }), /403/)
})

test('a browser speaks AMQP over WebSocket, at one path', async (t) => {
  const { broker } = await setup(t)
  const at = (path: string) => `${broker.http.replace('http', 'ws')}${path}`
  const client = new AMQPWebSocketClient(at('/ws/amqp'), broker.vhost, USER, PASSWORD)
  const connection = await client.connect()
  const channel = await connection.channel()
  const { name } = await channel.queueDeclare('', { exclusive: true })
  await channel.confirmSelect()
  await channel.basicPublish('', name, 'hello')
  const message = await channel.basicGet(name, { noAck: true })
  assert.equal(message?.bodyString(), 'hello')
  await connection.close()

  const elsewhere = new AMQPWebSocketClient(at('/v1/vhosts'), broker.vhost, USER, PASSWORD)
  await assert.rejects(elsewhere.connect())
})
