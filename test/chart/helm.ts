/** The chart as the real helm renders it, and its objects held against Kubernetes' types. */
import { execFile } from 'node:child_process'
import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { type ChartTools, chartTools } from '../../tools/chart-tools.ts'

const run = promisify(execFile)

export const ROOT = new URL('../../', import.meta.url).pathname
export const CHART = join(ROOT, 'charts/sluice')
const OUTPUT_BYTES_MAX = 64 * 1024 * 1024

/** As parsed; what is read of it is asserted. */
// biome-ignore lint/suspicious/noExplicitAny: objects of a dozen kinds
export type Manifest = any

export interface Values {
  readonly [name: string]: unknown
}

/** Where the types of an API group are. */
const MODELS: Readonly<Record<string, string>> = {
  'monitoring.coreos.com': '@kubernetes-models/prometheus-operator',
  'keda.sh': '@kubernetes-models/keda',
  'gateway.networking.k8s.io': '@kubernetes-models/gateway-api',
}

export class Helm {
  readonly #tools: ChartTools

  private constructor(tools: ChartTools) {
    this.#tools = tools
  }

  /** Undefined where it can neither be found nor fetched. */
  static find(): Helm | undefined {
    const tools = chartTools()
    return tools && new Helm(tools)
  }

  async lint(values: Values): Promise<void> {
    await this.#withValues(values, async (file) => {
      await run(this.#tools.helm, ['lint', '--strict', '--values', file, CHART])
    })
  }

  /** The objects, hooks and tests included. Rejects where a value is refused. */
  async template(values: Values, kubeVersion = '1.35.0'): Promise<Manifest[]> {
    return await this.#withValues(values, async (file) => {
      const args = ['template', 'broker', CHART, '--values', file, '--kube-version', kubeVersion]
      const options = { maxBuffer: OUTPUT_BYTES_MAX }
      const { stdout } = await run(this.#tools.helm, args, options)
      return this.parse(stdout)
    })
  }

  parse(text: string): Manifest[] {
    const { parseAllDocuments } = createRequire(join(this.#tools.folder, 'x.js'))('yaml')
    const documents = parseAllDocuments(text, { merge: true }) as {
      errors: readonly Error[]
      toJS(): Manifest
    }[]
    const wrong = documents.flatMap(({ errors }) => errors)
    if (wrong.length > 0) throw new AggregateError(wrong, 'no YAML')
    return documents.map((document) => document.toJS()).filter((object) => object !== null)
  }

  /**
   * What the compiler says against objects: unknown fields and wrong types. Each is written as a
   * literal of its type, since excess properties are found in literals alone.
   */
  async wrongObjects(objects: readonly Manifest[]): Promise<string> {
    const folder = mkdtempSync(join(tmpdir(), 'sluice-chart-'))
    try {
      symlinkSync(join(this.#tools.folder, 'node_modules'), join(folder, 'node_modules'))
      const lines = objects.map((object, index) => {
        const { apiVersion, kind } = object as { apiVersion: string; kind: string }
        const models = MODELS[apiVersion.split('/')[0]!] ?? 'kubernetes-models'
        const type = `import('${models}/${apiVersion}/${kind}').I${kind}`
        return `export const o${index}: ${type} = ${JSON.stringify(object)}\n`
      })
      writeFileSync(join(folder, 'objects.ts'), lines.join(''))
      const options = ['--noEmit', '--strict', '--skipLibCheck', '--module', 'preserve']
      await run(join(ROOT, 'node_modules/.bin/tsc'), [...options, 'objects.ts'], { cwd: folder })
      return ''
    } catch (error) {
      return (error as { stdout?: string }).stdout || String(error)
    } finally {
      rmSync(folder, { recursive: true })
    }
  }

  async #withValues<T>(values: Values, use: (file: string) => Promise<T>): Promise<T> {
    const folder = mkdtempSync(join(tmpdir(), 'sluice-values-'))
    try {
      const file = join(folder, 'values.json') // which is YAML too
      writeFileSync(file, JSON.stringify(values))
      return await use(file)
    } finally {
      rmSync(folder, { recursive: true })
    }
  }
}
