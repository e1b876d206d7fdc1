/**
 * Writes every file that is made from a list: `npm run generate`. With --check it writes nothing
 * and fails when one is out of date.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { renderConfiguration, renderHelmEnv, renderHelmEnvSchema } from '@sluice/config'
import { ERROR_CODES } from '@sluice/core'
import { STATUS } from '@sluice/server'
import { renderMetrics } from '@sluice/telemetry'
import { renderChartReadme } from './chart-readme.ts'
import { renderClientApi } from './client-api.ts'
import { ERROR_DOCS } from './error-docs.ts'

const BEGIN = '# Generated from libs/config/src/settings.ts by `npm run generate`:\n'
const END = '# End of what is generated.\n'

const check = process.argv.includes('--check')
const stale: string[] = []

generate('docs/configuration.md', () => renderConfiguration())
generate('docs/errors.md', () => renderErrors())
generate('docs/client-api.md', () => renderClientApi())
generate('libs/client/src/broker-error-codes.ts', () => renderErrorCodes())
generate('docs/metrics.md', () => renderMetrics())
generate('charts/sluice/values.yaml', (text) => {
  const begin = text.indexOf(BEGIN)
  const end = text.indexOf(END)
  if (begin < 0 || end < begin) throw new Error('charts/sluice/values.yaml has lost its markers')
  return text.slice(0, begin) + BEGIN + renderHelmEnv() + text.slice(end)
})
generate('charts/sluice/values.schema.json', (text) => {
  const schema = JSON.parse(text)
  Object.assign(schema.properties, renderHelmEnvSchema())
  return `${JSON.stringify(schema, null, 2)}\n`
})
generate('charts/sluice/README.md', () =>
  renderChartReadme(readFileSync(new URL('../charts/sluice/values.yaml', import.meta.url), 'utf8')),
)

if (check && stale.length > 0) {
  process.stderr.write(`out of date: ${stale.join(', ')}; run npm run generate\n`)
  process.exitCode = 1
}

function generate(file: string, render: (text: string) => string): void {
  const url = new URL(`../${file}`, import.meta.url)
  const text = read(url)
  const wanted = render(text)
  if (text === wanted) return
  stale.push(file)
  if (!check) writeFileSync(url, wanted)
}

/** The file's text; '' when there is none yet. */
function read(url: URL): string {
  try {
    return readFileSync(url, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return ''
    throw error
  }
}

function renderErrors(): string {
  return [
    '# Errors',
    '',
    'A refused request is answered with `application/problem+json` (RFC 9457). Its `title` is one of',
    'these codes, which stay as they are; `detail` is for people and may change. Answers with 429 and',
    '503 carry `Retry-After`: the same request may succeed later. Anything unexpected is',
    '`internal_error` with status 500, without detail, and is logged.',
    '',
    '| Code | Status | Meaning |',
    '| --- | --- | --- |',
    ...ERROR_CODES.map((code) => `| \`${code}\` | ${STATUS[code]} | ${ERROR_DOCS[code]} |`),
    '',
    'Try it, with `npm start` running: `curl -i http://127.0.0.1:8080/v1/vhosts` is `unauthenticated`.',
    '',
    'Generated from `libs/core/src/errors.ts` and `tools/error-docs.ts` by `npm run generate`.',
    '',
  ].join('\n')
}

/** The client is published by itself, so it cannot import the list. */
function renderErrorCodes(): string {
  return [
    '/** Refusals of the broker; docs/errors.md says what each means. */',
    'export const BROKER_ERROR_CODES = [',
    ...ERROR_CODES.map((code) => `  '${code}',`),
    '] as const',
    '',
    '// Generated from libs/core/src/errors.ts by `npm run generate`.',
    '',
  ].join('\n')
}
