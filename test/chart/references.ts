/** What the objects of a release name in each other is there: the compiler cannot tell. */
import type { Manifest } from './helm.ts'

type Labels = Readonly<Record<string, string>>

const WORKLOADS = ['Deployment', 'StatefulSet', 'Job', 'Pod']
/** Where a pod's own folder is; other absolute paths in settings are files that are mounted. */
const PATH = /^\/(?!data$)/

/** One complaint for each name that leads nowhere; a secret that is not here is somebody else's. */
export function dangling(objects: readonly Manifest[]): string[] {
  const said = objects.flatMap((object) => {
    const complaints = COMPLAINTS[object.kind]?.(object, objects) ?? []
    const pod = podOf(object)
    return [...complaints, ...(pod ? ofPod(pod.spec, objects) : [])].map(
      (complaint) => `${object.kind} ${object.metadata.name}: ${complaint}`,
    )
  })
  return [...new Set(said)]
}

const COMPLAINTS: Readonly<
  Record<string, (object: Manifest, all: readonly Manifest[]) => string[]>
> = {
  Service({ spec }, all) {
    const pods = selected(spec.selector, all)
    if (pods.length !== 1) return [`selects ${pods.length} workloads`]
    const names = portsOf(pods).map(({ name }) => name)
    const targets = spec.ports.map(({ targetPort }: Manifest) => targetPort)
    return targets
      .filter((name: string) => !names.includes(name))
      .map((name: string) => `no port ${name}`)
  },
  PodDisruptionBudget({ spec }, all) {
    return selected(spec.selector.matchLabels, all).length === 1 ? [] : ['selects not one workload']
  },
  NetworkPolicy({ spec }, all) {
    const pods = selected(spec.podSelector.matchLabels, all)
    const open = new Set(portsOf(pods).map(({ containerPort }) => containerPort))
    const allowed = new Set(spec.ingress[0].ports.map(({ port }: Manifest) => port))
    const differing = [...open, ...allowed].filter((port) => !(open.has(port) && allowed.has(port)))
    return differing.map((port) => `port ${port} is open or allowed, but not both`)
  },
  HorizontalPodAutoscaler: scaled,
  ScaledObject: scaled,
  Ingress({ spec }, all) {
    const paths = spec.rules.flatMap(({ http }: Manifest) => http.paths)
    return paths.flatMap(({ backend }: Manifest) =>
      backendOf(backend.service.name, all, ({ name }) => name === backend.service.port.name),
    )
  },
  HTTPRoute({ spec }, all) {
    const backends = spec.rules.flatMap(({ backendRefs }: Manifest) => backendRefs)
    return backends.flatMap(({ name, port: wanted }: Manifest) =>
      backendOf(name, all, ({ port }) => port === wanted),
    )
  },
  ServiceMonitor({ spec }, all) {
    const [{ port }] = spec.endpoints
    const services = all.filter(
      ({ kind, metadata }) =>
        kind === 'Service' && covers(spec.selector.matchLabels, metadata.labels),
    )
    const scraped = services.filter(({ spec }) =>
      spec.ports.some(({ name }: Manifest) => name === port),
    )
    const deployments = all.filter(({ kind }) => kind === 'Deployment')
    return scraped.length === deployments.length ? [] : [`scrapes ${scraped.length} services`]
  },
}

function scaled({ spec }: Manifest, all: readonly Manifest[]): string[] {
  const { name } = spec.scaleTargetRef
  const is = ({ kind, metadata }: Manifest) => kind === 'Deployment' && metadata.name === name
  return all.some(is) ? [] : [`no deployment ${name}`]
}

function backendOf(service: string, all: readonly Manifest[], fits: (port: Manifest) => boolean) {
  const is = ({ kind, metadata }: Manifest) => kind === 'Service' && metadata.name === service
  return all.find(is)?.spec.ports.some(fits) ? [] : [`no such port of a service ${service}`]
}

/** Its template, for what makes pods; itself, for a pod. */
function podOf(object: Manifest): Manifest {
  if (!WORKLOADS.includes(object.kind)) return undefined
  return object.kind === 'Pod' ? object : object.spec.template
}

function ofPod(spec: Manifest, all: readonly Manifest[]): string[] {
  const claimed = all.flatMap(({ spec }) => spec?.volumeClaimTemplates ?? [])
  const volumes = [
    ...(spec.volumes ?? []).map(({ name }: Manifest) => name),
    ...claimed.map(({ metadata }: Manifest) => metadata.name),
  ]
  return spec.containers.flatMap((container: Manifest) => {
    const { volumeMounts = [], env = [], ports = [] } = container
    const folders = volumeMounts.map(({ mountPath }: Manifest) => `${mountPath}/`)
    const probes = ['startupProbe', 'readinessProbe', 'livenessProbe'].map(
      (name) => container[name],
    )
    const asked = probes.map((probe) => (probe?.httpGet ?? probe?.tcpSocket)?.port)
    return [
      ...volumeMounts
        .filter(({ name }: Manifest) => !volumes.includes(name))
        .map(({ name }: Manifest) => `no volume ${name}`),
      ...env
        .filter(({ value }: Manifest) => PATH.test(value ?? ''))
        .filter(({ value }: Manifest) => !folders.some((path: string) => value.startsWith(path)))
        .map(({ name, value }: Manifest) => `${name}: ${value} is not mounted`),
      ...env.flatMap(({ valueFrom }: Manifest) => ofSecret(valueFrom?.secretKeyRef, all)),
      ...asked
        .filter((port) => port && !ports.some(({ name }: Manifest) => name === port))
        .map((port) => `no port ${port} to probe`),
    ]
  })
}

function ofSecret(wanted: Manifest, all: readonly Manifest[]): string[] {
  const is = ({ kind, metadata }: Manifest) => kind === 'Secret' && metadata.name === wanted?.name
  const secret = all.find(is)
  if (!secret || wanted.optional || Object.hasOwn(secret.stringData, wanted.key)) return []
  return [`no ${wanted.key} in the secret ${wanted.name}`]
}

/** Workloads that keep pods running whose labels a selector matches. */
function selected(selector: Labels, all: readonly Manifest[]): Manifest[] {
  const lasting = all.filter(({ kind }) => kind === 'Deployment' || kind === 'StatefulSet')
  const found = lasting.filter(({ spec }) => covers(selector, spec.template.metadata.labels))
  return [...new Map(found.map((object) => [object.metadata.name, object])).values()]
}

function portsOf(workloads: readonly Manifest[]): Manifest[] {
  const containers = workloads.flatMap(({ spec }) => spec.template.spec.containers)
  return containers.flatMap(({ ports = [] }) => ports)
}

export function covers(selector: Labels, labels: Labels): boolean {
  return Object.entries(selector).every(([name, value]) => labels[name] === value)
}
