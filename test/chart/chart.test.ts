/**
 * The chart, as the real helm renders it for many values and versions of Kubernetes: every object
 * is one that Kubernetes takes, and keeps the policies of a cluster that allows little.
 */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { before, describe, test } from 'node:test'
import { SETTINGS } from '@sluice/config'
import { METRICS } from '@sluice/telemetry'
import { CHART, Helm, type Manifest, type Values } from './helm.ts'
import { dangling } from './references.ts'

const PASSWORD = 'correct-horse-battery'
const REDIS_PASSWORD = 'redis-staple'
const HASH = 'kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR'
const KUBERNETES = ['1.25.0', '1.27.0', '1.30.0', '1.33.0', '1.35.0']

const TRIAL = { redis: { bundled: true, password: REDIS_PASSWORD }, adminPassword: PASSWORD }
const EVERYTHING = {
  ...TRIAL,
  mode: 'split',
  image: { tag: 'v1', pullSecrets: ['registry'] },
  pod: {
    labels: { team: 'blue' },
    annotations: { note: 'x' },
    tolerations: [{ key: 'a', operator: 'Exists' }],
    nodeSelector: { disk: 'ssd' },
    affinity: { nodeAffinity: {} },
    priorityClassName: 'high',
    serviceAccountName: 'sluice',
  },
  service: { type: 'LoadBalancer', annotations: { a: 'b' } },
  tls: { existingSecret: 'certificate', clientCa: true },
  trustedCa: { existingSecret: 'authority' },
  encryption: { existingSecret: 'wrapping' },
  ingress: {
    enabled: true,
    className: 'nginx',
    host: 'a.example',
    deliveryHost: 'b.example',
    tlsSecret: 'hosts',
  },
  gateway: {
    enabled: true,
    parentRefs: [{ name: 'gateway', namespace: 'infra' }],
    host: 'a.example',
    deliveryHost: 'b.example',
  },
  autoscaling: { kind: 'keda' },
  networkPolicy: {
    from: [{ namespaceSelector: { matchLabels: { team: 'blue' } } }],
    egress: [{ to: [{ ipBlock: { cidr: '10.0.0.0/8' } }] }],
  },
  monitoring: {
    rules: true,
    serviceMonitor: true,
    dashboard: true,
    labels: { release: 'prometheus' },
  },
  definitions: {
    users: [{ name: 'app', password_hash: HASH }],
    queues: [{ name: 'orders', vhost: '/', durable: true }],
  },
  env: { SLUICE_WORKERS: 2, SLUICE_MESSAGE_BYTES_MAX: 16_777_216, SLUICE_DRAIN_MS: '60000' },
}

const MATRIX: Readonly<Record<string, Values>> = {
  'a trial': TRIAL,
  everything: EVERYTHING,
  'all in one, scaled by CPU': {
    redisUrl: 'rediss://redis:6379',
    adminPassword: PASSWORD,
    autoscaling: { kind: 'hpa' },
  },
  'all in one, scaled by queues': {
    redisUrl: 'redis://redis:6379',
    adminPassword: PASSWORD,
    autoscaling: { kind: 'keda' },
  },
  'sentinels, existing secrets': {
    mode: 'split',
    existingSecret: 'ours',
    redis: { urlSecret: { name: 'operator', key: 'uri' }, tls: { existingSecret: 'redis-tls' } },
  },
  'a cluster with client certificates': {
    redisUrl: 'rediss+cluster://a:6379,b:6379',
    adminPassword: PASSWORD,
    redis: { tls: { existingSecret: 'redis-tls', clientCertificate: true } },
  },
  'TLS only': {
    ...TRIAL,
    tls: { existingSecret: 'certificate' },
    env: { SLUICE_TLS_ONLY: true },
    monitoring: { serviceMonitor: true },
    definitions: { vhosts: [{ name: 'shop' }] },
  },
  bare: {
    redisUrl: 'redis+sentinel://a:26379/main',
    adminPassword: PASSWORD,
    podDisruptionBudget: { enabled: false },
    networkPolicy: { enabled: false },
    pod: { spreadOver: [] },
  },
}

const helm = Helm.find()

const skip = helm === undefined && 'helm cannot be fetched'

/** By the name of its values: what each version of Kubernetes is given. */
const rendered = new Map<string, Manifest[]>()
const all = () => [...rendered.values()].flat()
const of = (name: string, kind: string): Manifest[] =>
  rendered.get(name)!.filter((object) => object.kind === kind)

before(async () => {
  if (helm === undefined) return
  for (const [name, values] of Object.entries(MATRIX)) {
    const versions = KUBERNETES.map((version) => helm.template(values, version))
    const objects = (await Promise.all(versions)).flat()
    const once = new Map(objects.map((object) => [JSON.stringify(object), object]))
    rendered.set(name, [...once.values()])
  }
})

describe('objects', { skip }, () => {
  for (const [name, values] of Object.entries(MATRIX)) {
    test(`lint --strict has nothing to say: ${name}`, () => helm!.lint(values))
  }

  test('every object has the fields of its kind, and no others', async () => {
    assert.equal(await helm!.wrongObjects(all()), '')
  })

  test('a field that is unknown or of the wrong type would be found', async () => {
    const [deployment] = of('a trial', 'Deployment')
    const unknown = structuredClone(deployment)
    unknown.spec.template.spec.containers[0].readOnly = true
    const wrong = structuredClone(deployment)
    wrong.spec.replicas = '2'
    const complaints = await helm!.wrongObjects([unknown, wrong])
    assert.match(complaints, /"readOnly"' does not exist/)
    assert.match(complaints, /'string' is not assignable to type 'number'/)
  })

  test('what is referred to is there', () => {
    for (const name of rendered.keys()) assert.deepEqual(dangling(rendered.get(name)!), [], name)
  })

  test('what leads nowhere would be found', () => {
    const broken = (kind: string, index: number, change: (spec: Manifest) => void) => {
      const objects = structuredClone(rendered.get('everything')!)
      change(objects.filter((object) => object.kind === kind)[index].spec)
      return dangling(objects).join()
    }
    const [pod, file] = [(spec: Manifest) => spec.template.spec, '/encryption/keys']
    assert.match(
      broken('Deployment', 0, (spec) => pod(spec).volumes.splice(1, 1)),
      /no volume encryption/,
    )
    assert.match(
      broken('Deployment', 0, (spec) => pod(spec).containers[0].volumeMounts.splice(1, 1)),
      new RegExp(`${file} is not mounted`),
    )
    assert.match(
      broken('NetworkPolicy', 0, (spec) => spec.ingress[0].ports.pop()),
      /port 5671 is open/,
    )
    assert.match(
      broken('Service', 0, (spec) => (spec.ports[0].targetPort = 'web')),
      /no port web/,
    )
    assert.match(
      broken('ServiceMonitor', 0, (spec) => (spec.endpoints[0].port = 'web')),
      /scrapes 0 services/,
    )
    assert.match(
      broken('Ingress', 0, (spec) => (spec.rules[0].http.paths[0].backend.service.name = 'x')),
      /service x/,
    )
  })
})

describe('settings and secrets', { skip }, () => {
  test('secrets are in Secrets alone', () => {
    for (const object of all().filter(({ kind }) => kind !== 'Secret')) {
      const text = JSON.stringify(object)
      for (const secret of [PASSWORD, REDIS_PASSWORD, HASH]) {
        assert.ok(!text.includes(secret), `${object.kind} ${object.metadata.name}`)
      }
    }
    const secrets = all().filter(({ kind }) => kind === 'Secret')
    assert.ok(JSON.stringify(secrets).includes(PASSWORD))
    assert.deepEqual(of('sentinels, existing secrets', 'Secret'), [])
  })

  test('a pod may stop for longer than its processes drain', () => {
    for (const name of rendered.keys()) {
      for (const { spec } of of(name, 'Deployment')) {
        const { containers, terminationGracePeriodSeconds: grace } = spec.template.spec
        const drain = name === 'everything' ? 60 : 25
        const [command, seconds] = containers[0].lifecycle.preStop.exec.command
        assert.equal(command, 'sleep')
        assert.ok(grace >= drain + Number(seconds) + 5, `${name}: ${grace} s`)
      }
    }
  })

  test('what scales asks for a metric that there is', () => {
    for (const { spec } of all().filter(({ kind }) => kind === 'ScaledObject')) {
      const asked = spec.triggers.filter(({ type }: Manifest) => type === 'prometheus')
      for (const { metadata } of asked) {
        const [, name, label] = /\((\w+)\{(\w+)=/.exec(metadata.query) ?? []
        assert.match(metadata.query, /queue!="amq\.dead-letters"/, 'they wait for people')
        const metric = Object.values(METRICS).find((known) => known.name === name)
        assert.ok(metric && Object.hasOwn(metric.labels, label!), metadata.query)
      }
    }
  })

  test('numbers of settings stay as they are, and files of secrets are known to the process', () => {
    const env = envOf(of('everything', 'Deployment')[0])
    assert.equal(env['SLUICE_MESSAGE_BYTES_MAX'], '16777216')
    assert.equal(env['SLUICE_WORKERS'], '2')
    assert.equal(env['SLUICE_TLS_CLIENT_CA'], '/tls/ca.crt')
    assert.equal(env['SLUICE_ENCRYPTION_KEY_FILE'], '/encryption/keys')
    assert.equal(env['NODE_EXTRA_CA_CERTS'], '/trusted-ca/ca.crt')
    const clustered = envOf(of('a cluster with client certificates', 'Deployment')[0])
    assert.equal(clustered['SLUICE_REDIS_KEY'], '/redis-tls/tls.key')
    const given = Object.keys({ ...env, ...clustered })
    for (const { env: name, doc } of Object.values(SETTINGS)) {
      if (doc.startsWith('File with')) assert.ok(given.includes(name), `no Secret for ${name}`)
    }
    const secret = envOf(of('sentinels, existing secrets', 'Deployment')[0])
    assert.deepEqual(secret['REDIS_URL'], { name: 'operator', key: 'uri', optional: undefined })
  })
})

/** What, the values, and why. */
const REFUSED: readonly (readonly [string, Values, RegExp])[] = [
  ['an unknown value', { ...TRIAL, replicaCount: 3 }, /replicaCount/],
  ['an unknown setting', { ...TRIAL, env: { SLUICE_WORKER: 2 } }, /SLUICE_WORKER/],
  ['a secret as a plain setting', { ...TRIAL, env: { REDIS_URL: 'redis://x' } }, /REDIS_URL/],
  ['a setting out of its bounds', { ...TRIAL, env: { SLUICE_WORKERS: 1000 } }, /SLUICE_WORKERS/],
  ['a word for a number', { ...TRIAL, service: { port: 'http' } }, /port/],
  ['limits without memory', { ...TRIAL, resources: { limits: { memory: null } } }, /memory/],
  ['an unknown mode', { ...TRIAL, mode: 'both' }, /mode/],
  ['no Redis', { adminPassword: PASSWORD }, /say which Redis/],
  ['two of them', { ...TRIAL, redisUrl: 'redis://x:6379' }, /exclude each other/],
  ['no password', { redisUrl: 'redis://x:6379' }, /set adminPassword/],
  ['a short password', { ...TRIAL, adminPassword: 'short' }, /adminPassword/],
  [
    'one host for two services',
    { ...TRIAL, mode: 'split', ingress: { enabled: true, host: 'a.example' } },
    /deliveryHost/,
  ],
]

describe('values', { skip }, () => {
  for (const [what, values, why] of REFUSED) {
    test(`refused: ${what}`, () => assert.rejects(helm!.template(values), why))
  }

  test('an upgrade from the previous chart changes nothing that may not change', async () => {
    const before = helm!.parse(readFileSync(new URL('previous.yaml', import.meta.url), 'utf8'))
    const values = { redisUrl: 'redis://redis:6379', adminPassword: 'password' }
    const modes = ['all-in-one', 'split'].map((mode) => helm!.template({ ...values, mode }))
    const after = (await Promise.all(modes)).flat()
    for (const old of before) {
      const now = after.find(
        ({ kind, metadata }) => kind === old.kind && metadata.name === old.metadata.name,
      )
      assert.ok(now, `${old.kind} ${old.metadata.name} would be deleted`)
      assert.equal(now.apiVersion, old.apiVersion)
      if (old.kind === 'Deployment' || old.kind === 'Service') {
        assert.deepEqual(now.spec.selector, old.spec.selector)
      }
      if (old.kind === 'Secret') assert.deepEqual(now.stringData, old.stringData)
    }
  })

  test('what docs/kubernetes.md says to install is installed', async () => {
    const page = readFileSync(new URL('../../docs/kubernetes.md', import.meta.url), 'utf8')
    const [, written] = /```yaml\n([^`]+)```/.exec(page) ?? []
    const [own] = helm!.parse(written!)
    const objects = await helm!.template(own)
    assert.deepEqual(dangling(objects), [])
    const kinds = new Set(objects.map(({ kind }) => kind))
    for (const kind of ['ScaledObject', 'HTTPRoute', 'ServiceMonitor']) assert.ok(kinds.has(kind))
    assert.ok(!kinds.has('StatefulSet'))
    const flags = [...page.matchAll(/--set ([\w.]+)=/g)].map(([, path]) => path!)
    assert.ok(flags.length >= 4)
    const values = helm!.parse(readFileSync(join(CHART, 'values.yaml'), 'utf8'))[0]
    for (const path of flags) {
      const value = path.split('.').reduce((at: Manifest, name) => at?.[name], values)
      assert.notEqual(value, undefined, path)
    }
  })

  test('the README and the schema speak of every value', () => {
    const values = helm!.parse(readFileSync(join(CHART, 'values.yaml'), 'utf8'))[0]
    const schema = JSON.parse(readFileSync(join(CHART, 'values.schema.json'), 'utf8'))
    const readme = readFileSync(join(CHART, 'README.md'), 'utf8')
    for (const [name, value] of Object.entries(values)) {
      assert.ok(schema.properties[name], `${name} is not in the schema`)
      assert.match(readme, new RegExp(`\\| \`${name}[.\`]`), name)
      if (schema.properties[name].properties === undefined || name === 'definitions') continue
      const known = Object.keys(schema.properties[name].properties)
      assert.deepEqual(Object.keys(value as object).sort(), known.sort(), name)
    }
  })
})

/** What a cluster that allows little asks of every pod. */
describe('policies', { skip }, () => {
  const pods = () =>
    all().flatMap((object) => {
      if (object.kind === 'Pod') return [{ name: object.metadata.name, spec: object.spec }]
      const spec = object.spec?.template?.spec
      return spec === undefined ? [] : [{ name: object.metadata.name, spec }]
    })

  test('every pod keeps the restricted profile', () => {
    assert.ok(pods().length > 20)
    for (const { name, spec } of pods()) {
      assert.equal(spec.securityContext.runAsNonRoot, true, name)
      assert.ok(spec.securityContext.runAsUser > 0, name)
      assert.equal(spec.securityContext.seccompProfile.type, 'RuntimeDefault', name)
      assert.equal(spec.automountServiceAccountToken, false, name)
      for (const key of ['hostNetwork', 'hostPID', 'hostIPC']) assert.ok(!spec[key], name)
      for (const volume of spec.volumes ?? []) assert.ok(!volume.hostPath, name)
      for (const { securityContext, ports = [] } of spec.containers) {
        assert.equal(securityContext.allowPrivilegeEscalation, false, name)
        assert.equal(securityContext.readOnlyRootFilesystem, true, name)
        assert.deepEqual(securityContext.capabilities, { drop: ['ALL'] }, name)
        for (const port of ports) assert.ok(port.hostPort === undefined, name)
      }
    }
  })

  test('every container has requests and limits', () => {
    for (const { name, spec } of pods()) {
      for (const { resources } of spec.containers) {
        for (const kind of ['requests', 'limits']) {
          assert.ok(resources[kind]?.cpu && resources[kind]?.memory, `${name}: ${kind}`)
        }
      }
    }
  })

  test('what serves is probed: alive by /healthz, ready by /readyz', () => {
    for (const { kind, metadata, spec } of all()) {
      if (kind !== 'Deployment' && kind !== 'StatefulSet') continue
      const [container] = spec.template.spec.containers
      const ports = container.ports.map(({ name }: { name: string }) => name)
      for (const probe of ['startupProbe', 'livenessProbe', 'readinessProbe']) {
        const { httpGet } = container[probe]
        assert.ok(container[probe], `${metadata.name}: ${probe}`)
        if (kind === 'StatefulSet') continue
        assert.equal(httpGet.path, probe === 'readinessProbe' ? '/readyz' : '/healthz')
        assert.ok(ports.includes(httpGet.port), `${metadata.name}: no port ${httpGet.port}`)
      }
    }
  })
})

/** The environment of a pod; what comes from a secret as its name and key. */
function envOf(deployment: Manifest): Record<string, unknown> {
  const { env } = deployment.spec.template.spec.containers[0]
  return Object.fromEntries(
    env.map(({ name, value, valueFrom }: Manifest) => {
      const { optional, ...from } = valueFrom?.secretKeyRef ?? {}
      return [name, valueFrom ? { ...from, optional } : value]
    }),
  )
}
