/**
 * docker-compose.yml for real: builds the image, starts the stack, tells it the e2e stories, kills
 * each container under load, stops it; then the chart's pods as containers, and a suite on a Redis
 * by Testcontainers.
 * `npm run e2e:compose`; says that it was skipped where no engine answers.
 *
 * NODE_EXTRA_CA_CERTS, where set, is known to npm in the build.
 */
import assert from 'node:assert/strict'
import { freePort, waitFor } from '@sluice/testkit'
import { type HttpClient, httpClient, PASSWORD } from '../support/http.ts'
import { chartInContainers } from './chart.ts'
import { suiteInContainer } from './containers.ts'
import { missing, Stack } from './engine.ts'
import { killUnderLoad } from './kill.ts'
import { tellStories } from './stories.ts'

const IMAGE = 'sluice:e2e'
const SERVICES = ['router', 'delivery', 'reaper'] as const
const UP_MS_MAX = 120_000

const why = missing()
if (why === undefined) {
  await main()
  await chartInContainers(IMAGE, say)
  await suiteInContainer(say)
  say('everything passed')
} else process.stdout.write(`e2e:compose was skipped: ${why}\n`)

async function main(): Promise<void> {
  const [router, delivery, amqp] = [await freePort(), await freePort(), await freePort()]
  const stack = new Stack(`sluice-e2e-${process.pid}`, {
    SLUICE_IMAGE: IMAGE,
    SLUICE_ADMIN_PASSWORD: PASSWORD,
    ROUTER_PORT: String(router),
    DELIVERY_PORT: String(delivery),
    AMQP_PORT: String(amqp),
  })
  await build(stack)
  const urls = [`http://127.0.0.1:${router}`, `http://127.0.0.1:${delivery}`] as const
  const clients = urls.map((url) => httpClient(url))
  try {
    say('starting')
    await stack.compose('up', '--detach', '--no-build')
    await ready(clients)
    await confined(stack)
    say('telling the stories')
    await tellStories(...urls)
    await killUnderLoad(stack, clients[0]!, clients[1]!, say)
    await stop(stack)
  } catch (error) {
    say(await stack.compose('logs', '--tail', '30').catch(String))
    throw error
  } finally {
    for (const client of clients) client.close()
    await stack.compose('down', '--volumes', '--timeout', '5')
  }
}

async function build(stack: Stack): Promise<void> {
  say('building the image')
  const ca = process.env['NODE_EXTRA_CA_CERTS']
  const secret = ca ? ['--secret', `id=extra_ca,src=${ca}`] : []
  await stack.docker('build', '--tag', IMAGE, ...secret, '.')
  const bytes = Number(await stack.docker('image', 'inspect', '--format', '{{.Size}}', IMAGE))
  say(`the image has ${Math.round(bytes / 1e6)} MB`)
  const format = '{{index .Config.Labels "org.opencontainers.image.title"}} {{.Config.User}}'
  const told = await stack.docker('image', 'inspect', '--format', format, IMAGE)
  assert.equal(told.trim(), 'Sluice 1000:1000')
}

async function ready(clients: readonly HttpClient[]): Promise<void> {
  for (const client of clients) {
    const isReady = async () => (await client.request('GET', '/readyz')).status === 200
    const asked = () => isReady().catch(() => false)
    await waitFor(asked, { what: 'the stack to be ready', timeoutMs: UP_MS_MAX })
  }
}

/**
 * Each process is no root, has no capability, cannot get any, and cannot write to its image; within
 * that, the image's own health check works.
 */
async function confined(stack: Stack): Promise<void> {
  const health = '{{json .Config.Healthcheck.Test}}'
  const asked = await stack.docker('image', 'inspect', '--format', health, IMAGE)
  const [, ...check]: string[] = JSON.parse(asked)
  for (const service of SERVICES) {
    const id = await stack.container(service)
    const status = await stack.docker('exec', id, 'cat', '/proc/1/status')
    assert.match(status, /^Name:\s+(node|MainThread)$/m)
    assert.match(status, /^Uid:\s+1000\s/m)
    assert.match(status, /^CapEff:\s+0+$/m)
    assert.match(status, /^CapBnd:\s+0+$/m)
    assert.match(status, /^NoNewPrivs:\s+1$/m)
    await assert.rejects(stack.docker('exec', id, 'touch', '/app/x'), /Read-only file system/)
    await stack.docker('exec', id, ...check)
  }
  say('no root, no capabilities, a read-only file system')
}

/** In order, which each process ends with code 0. */
async function stop(stack: Stack): Promise<void> {
  const ids = await Promise.all(SERVICES.map((service) => stack.container(service)))
  const begun = performance.now()
  await stack.compose('stop')
  for (const [index, id] of ids.entries()) {
    const code = await stack.docker('inspect', '--format', '{{.State.ExitCode}}', id)
    assert.equal(code.trim(), '0', `${SERVICES[index]} ended with ${code.trim()}`)
  }
  say(`stopped in order after ${Math.round(performance.now() - begun)} ms`)
}

function say(line: string): void {
  process.stdout.write(`== ${line}\n`)
}
