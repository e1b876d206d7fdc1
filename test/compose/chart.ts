/**
 * What the chart installs, as containers: all in one and told the e2e stories; each service by
 * itself with TLS alone and encryption. Definitions and `helm test` run in both.
 */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Helm, type Manifest, type Values } from '../chart/helm.ts'
import { PASSWORD } from '../support/http.ts'
import { Stack } from './engine.ts'
import { Pods } from './pods.ts'
import { tellStories } from './stories.ts'

const WRAPPING_KEY = '5c'.repeat(32)

export async function chartInContainers(image: string, say: (line: string) => void): Promise<void> {
  const helm = Helm.find()
  if (helm === undefined) return say('the chart was skipped: helm cannot be fetched')
  const [repository, tag] = image.split(':')
  const values = {
    image: { repository, tag },
    redis: { bundled: true, password: 'staple' },
    adminPassword: PASSWORD,
    pod: { stopDelaySeconds: 1 },
  }
  say('the chart, all in one')
  const queues = [{ name: 'orders', vhost: '/', durable: true }]
  const plain = await helm.template({ ...values, definitions: { queues } })
  await stands(plain, say, async (pods) => {
    const http = `http://${await pods.address('broker-sluice-all-in-one', 'http')}`
    await tellStories(http, http)
  })
  say('the chart, each service by itself, with TLS alone and encryption')
  const split = await helm.template({ ...values, ...confidential() })
  await stands([...split, ...secrets()], say)
}

/** Nothing in the clear. The policy is refused where pods have no key. */
function confidential(): Values {
  const policy = { name: 'private', vhost: '/', pattern: '^private', 'apply-to': 'queues' }
  return {
    mode: 'split',
    tls: { existingSecret: 'certificate' },
    encryption: { existingSecret: 'wrapping' },
    env: { SLUICE_TLS_ONLY: true },
    definitions: { policies: [{ ...policy, definition: { encryption: true } }] },
  }
}

async function stands(
  objects: readonly Manifest[],
  say: (line: string) => void,
  further = async (_: Pods) => {},
): Promise<void> {
  const pods = new Pods(new Stack('sluice-chart', {}), objects, `sluice-chart-${process.pid}`)
  try {
    await pods.start()
    // As often as there are upgrades.
    for (const _ of [1, 2]) await pods.task('Job', /-definitions$/)
    assert.match(await pods.task('Pod', /-test$/), /published, leased and acknowledged/)
    await further(pods)
    const begun = performance.now()
    await pods.stop()
    say(`it stood, and stopped in order after ${Math.round(performance.now() - begun)} ms`)
  } catch (error) {
    say(await pods.logs())
    throw error
  } finally {
    await pods.remove()
  }
}

/** What others bring: a certificate that names the services, and a key. */
function secrets(): Manifest[] {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-certificate-'))
  try {
    const [certificate, key] = [join(folder, 'tls.crt'), join(folder, 'tls.key')]
    const names = ['router', 'delivery', 'reaper'].map((name) => `DNS:broker-sluice-${name}`)
    execFileSync(
      'openssl',
      [
        ...['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'],
        ...['-days', '2', '-subj', '/CN=sluice', '-addext', `subjectAltName=${names}`],
        ...['-keyout', key, '-out', certificate],
      ],
      { stdio: 'ignore' },
    )
    const [crt, secret] = [certificate, key].map((file) => readFileSync(file, 'utf8'))
    return [
      secretOf('certificate', { 'tls.crt': crt!, 'tls.key': secret!, 'ca.crt': crt! }),
      secretOf('wrapping', { keys: WRAPPING_KEY }),
    ]
  } finally {
    rmSync(folder, { recursive: true })
  }
}

function secretOf(name: string, stringData: Readonly<Record<string, string>>): Manifest {
  return { apiVersion: 'v1', kind: 'Secret', metadata: { name }, stringData }
}
