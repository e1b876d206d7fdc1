/**
 * The chart's pods as containers: each with the image, command, settings, files, user and limits
 * that Kubernetes would give it, found under the names of its services, probed, stopped as there.
 * What a cluster adds (placement, network policies, rolling upgrades) is not in it.
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { get, type IncomingMessage } from 'node:http'
import { get as getSecurely } from 'node:https'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { waitFor } from '@sluice/testkit'
import type { Manifest } from '../chart/helm.ts'
import { covers } from '../chart/references.ts'
import type { Stack } from './engine.ts'

const READY_MS_MAX = 120_000

export class Pods {
  readonly #engine: Stack
  readonly #objects: readonly Manifest[]
  readonly #name: string
  readonly #folder = mkdtempSync(join(tmpdir(), 'sluice-pods-'))
  /** Folders of files so far. */
  #made = 0
  readonly #running: { id: string; workload: Manifest }[] = []

  constructor(engine: Stack, objects: readonly Manifest[], name: string) {
    this.#engine = engine
    this.#objects = objects
    this.#name = name
  }

  /** Every pod of each workload, Redis first; returns when all are ready. */
  async start(): Promise<void> {
    chmodSync(this.#folder, 0o755)
    await this.#engine.docker('network', 'create', this.#name)
    for (const kind of ['StatefulSet', 'Deployment']) {
      for (const workload of this.#all(kind)) {
        for (let left = workload.spec.replicas; left > 0; left--) {
          const args = this.#args(workload.spec.template, workload.spec.volumeClaimTemplates)
          const id = await this.#engine.docker('run', '--detach', ...args)
          this.#running.push({ id: id.trim(), workload })
        }
      }
      await Promise.all(this.#running.map((pod) => this.#ready(pod)))
    }
  }

  /** What a hook's pod says; rejects when it fails. */
  async task(kind: 'Job' | 'Pod', name: RegExp): Promise<string> {
    const task = this.#all(kind).find(({ metadata }) => name.test(metadata.name))
    const pod = kind === 'Job' ? task.spec.template : task
    return await this.#engine.docker('run', '--rm', ...this.#args(pod))
  }

  /** Where a port of a deployment is on this machine; its first pod's. */
  async address(deployment: string, port: string): Promise<string> {
    const { id, workload } = this.#running.find((pod) => pod.workload.metadata.name === deployment)!
    return await this.#published(id, workload, port)
  }

  /** As a cluster stops them, all at once: each ends in order, within its grace. */
  async stop(): Promise<void> {
    const stopped = this.#running.map(async ({ id, workload }) => {
      const { containers, terminationGracePeriodSeconds: grace } = workload.spec.template.spec
      const before: string[] = containers[0].lifecycle?.preStop.exec.command ?? []
      if (before.length > 0) await this.#engine.docker('exec', id, ...before)
      await this.#engine.docker('stop', '--time', String(grace), id)
      const code = await this.#engine.docker('inspect', '--format', '{{.State.ExitCode}}', id)
      assert.equal(code.trim(), '0', `${workload.metadata.name} ended with ${code.trim()}`)
    })
    await Promise.all(stopped)
  }

  /** The last lines of each pod. */
  async logs(): Promise<string> {
    const said = this.#running.map(({ id }) =>
      this.#engine.docker('logs', '--tail', '20', id).catch(String),
    )
    return (await Promise.all(said)).join('\n')
  }

  async remove(): Promise<void> {
    for (const { id } of this.#running) await this.#engine.docker('rm', '--force', '--volumes', id)
    await this.#engine.docker('network', 'rm', this.#name)
    rmSync(this.#folder, { recursive: true })
  }

  #all(kind: string): Manifest[] {
    return this.#objects.filter((object) => object.kind === kind)
  }

  /** Of `docker run`. */
  #args({ metadata, spec }: Manifest, claims: readonly Manifest[] = []): string[] {
    const [container] = spec.containers
    const { runAsUser: user, runAsGroup: group } = spec.securityContext
    const env = this.#env(container)
    const services = this.#all('Service').filter((service) =>
      covers(service.spec.selector, metadata.labels),
    )
    const said: string[] = [...(container.command ?? []), ...(container.args ?? [])].map((text) =>
      text.replace(/\$\((\w+)\)/g, (_: string, name: string) => env[name]),
    )
    const entrypoint = container.command === undefined ? [] : ['--entrypoint', said.shift()!]
    return [
      ...['--network', this.#name, '--user', `${user}:${group}`],
      ...services.flatMap((service) => ['--network-alias', service.metadata.name]),
      ...['--read-only', '--cap-drop', 'ALL', '--security-opt', 'no-new-privileges'],
      ...['--memory', container.resources.limits.memory.replace(/i$/, '').toLowerCase()],
      ...['--cpus', String(container.resources.limits.cpu)],
      ...(container.ports ?? []).flatMap(({ containerPort }: Manifest) => [
        '--publish',
        `127.0.0.1::${containerPort}`,
      ]),
      ...Object.entries(env).flatMap(([name, value]) => ['--env', `${name}=${value}`]),
      ...(container.volumeMounts ?? []).flatMap(({ name, mountPath }: Manifest) => {
        const volume = spec.volumes?.find((volume: Manifest) => volume.name === name)
        if (volume?.secret) return ['--volume', `${this.#files(volume.secret)}:${mountPath}:ro`]
        assert.ok(volume?.emptyDir || claims.some(({ metadata }) => metadata.name === name), name)
        return ['--tmpfs', `${mountPath}:uid=${user},gid=${group}`]
      }),
      ...entrypoint,
      container.image,
      ...said,
    ]
  }

  #env({ env = [] }: Manifest): Record<string, string> {
    const values = env.flatMap(({ name, value, valueFrom }: Manifest) => {
      if (value !== undefined) return [[name, value]]
      const { name: secret, key, optional } = valueFrom.secretKeyRef
      const found = this.#secret(secret)[key]
      assert.ok(found !== undefined || optional, `no ${key} in ${secret}`)
      return found === undefined ? [] : [[name, found]]
    })
    return Object.fromEntries(values)
  }

  #secret(name: string): Record<string, string> {
    return this.#all('Secret').find(({ metadata }) => metadata.name === name).stringData
  }

  /** A folder with what a volume takes of a secret. */
  #files({ secretName, items }: Manifest): string {
    const folder = join(this.#folder, String(this.#made++))
    mkdirSync(folder)
    const secret = this.#secret(secretName)
    const taken = items ?? Object.keys(secret).map((key) => ({ key, path: key }))
    for (const { key, path } of taken) writeFileSync(join(folder, path), secret[key]!)
    return folder
  }

  /** Until its probes are content, as its service would wait. */
  async #ready({ id, workload }: { id: string; workload: Manifest }): Promise<void> {
    const [container] = workload.spec.template.spec.containers
    for (const name of ['startupProbe', 'livenessProbe', 'readinessProbe']) {
      const content = () => this.#probe(id, workload, container[name]).catch(() => false)
      const what = `${workload.metadata.name}: ${name}`
      await waitFor(content, { what, timeoutMs: READY_MS_MAX })
    }
  }

  async #probe(id: string, workload: Manifest, { httpGet, exec }: Manifest): Promise<boolean> {
    if (exec) await this.#engine.docker('exec', id, ...exec.command)
    if (!httpGet) return true
    const address = await this.#published(id, workload, httpGet.port)
    return (await ask(httpGet.scheme, `${address}${httpGet.path}`)) === 200
  }

  async #published(id: string, { spec }: Manifest, port: string): Promise<string> {
    const { ports } = spec.template.spec.containers[0]
    const { containerPort } = ports.find(({ name }: Manifest) => name === port)
    return (await this.#engine.docker('port', id, `${containerPort}/tcp`)).trim()
  }
}

/** Its status. Of TLS no certificate is verified, as probes verify none. */
async function ask(scheme: string, address: string): Promise<number | undefined> {
  const request =
    scheme === 'HTTPS'
      ? getSecurely(`https://${address}`, { rejectUnauthorized: false })
      : get(`http://${address}`)
  const [response] = (await once(request, 'response')) as [IncomingMessage]
  response.resume()
  return response.statusCode
}
