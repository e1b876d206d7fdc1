/**
 * Makes what is published, in `dist/`: JavaScript and its types, made for browsers and Node alike,
 * README and licence, and a package.json that names them. `npm publish libs/client/dist` sends it.
 *
 * The package of the workspace itself keeps pointing at the sources, which need no build here.
 */
import { execFileSync } from 'node:child_process'
import { copyFileSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const FOLDER = dirname(fileURLToPath(import.meta.url))
const [out = join(FOLDER, 'dist')] = process.argv.slice(2)

const typescript = createRequire(import.meta.url).resolve('typescript/package.json')
rmSync(out, { recursive: true, force: true })
execFileSync(
  process.execPath,
  [
    join(dirname(typescript), 'bin/tsc'),
    '-p',
    join(FOLDER, 'tsconfig.build.json'),
    '--outDir',
    out,
  ],
  { stdio: 'inherit' },
)

// The compiler rewrites imports in code alone; older ones look for the file that a type names.
for (const file of readdirSync(out).filter((name) => name.endsWith('.d.ts'))) {
  const text = readFileSync(join(out, file), 'utf8')
  writeFileSync(join(out, file), text.replaceAll(/(from '\.[^']*)\.ts'/g, "$1.js'"))
}

const { name, version, description, license, type } = JSON.parse(
  readFileSync(join(FOLDER, 'package.json'), 'utf8'),
)
const published = {
  name,
  version,
  description,
  license,
  type,
  keywords: ['sluice', 'message broker', 'queue', 'rabbitmq', 'redis', 'cloudevents', 'webhooks'],
  sideEffects: false,
  engines: { node: '>=22' },
  exports: {
    '.': { types: './index.d.ts', default: './index.js' },
    './package.json': './package.json',
  },
}
writeFileSync(join(out, 'package.json'), `${JSON.stringify(published, null, 2)}\n`)
copyFileSync(join(FOLDER, 'README.md'), join(out, 'README.md'))
copyFileSync(join(FOLDER, '../../LICENSE'), join(out, 'LICENSE'))
