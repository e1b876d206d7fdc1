/** The settings as people read them: docs/configuration.md, and the env block of Helm's values. */
import { z } from 'zod'
import { SETTINGS, type Setting } from './settings.ts'

const settings: readonly Setting[] = Object.values(SETTINGS)

function fallback({ schema }: Setting): string | undefined {
  const parsed = schema.safeParse(undefined)
  return parsed.success ? String(parsed.data ?? '') || undefined : undefined
}

/** The text of docs/configuration.md. */
export function renderConfiguration(): string {
  const rows = settings.map((setting) => {
    const { env, doc, secret } = setting
    const value = fallback(setting)
    return `| \`${env}\` | ${value === undefined ? '' : `\`${value}\``} | ${doc}${secret ? ' Never logged.' : ''} |`
  })
  return [
    '# Configuration',
    '',
    'Settings come from environment variables and from nowhere else. An empty variable counts as unset.',
    'A value that does not fit, or a `SLUICE_` variable that does not exist, is an error at start that',
    'names everything wrong at once. What belongs to one queue is an argument or a policy of that queue.',
    '',
    '| Variable | Default | Meaning |',
    '| --- | --- | --- |',
    ...rows,
    '',
    'Try it: `SLUICE_HTTP_PORT=8081 SLUICE_LOG_LEVEL=debug npm start`.',
    '',
    'Generated from `libs/config/src/settings.ts` by `npm run generate`.',
    '',
  ].join('\n')
}

/**
 * The `env` and `secretEnv` blocks of charts/sluice/values.yaml. An empty value leaves the default;
 * each secret names the key of the chart's Secret that holds it.
 */
export function renderHelmEnv(): string {
  const plain = settings.filter(({ secret }) => !secret)
  const secret = settings.filter(({ secret }) => secret)
  return [
    'env:',
    ...plain.flatMap((setting) => {
      const value = fallback(setting)
      const unset = value === undefined ? '' : ` Default: ${value}`
      return [
        `  # ${setting.doc}${unset}`,
        `  ${setting.env}: ${JSON.stringify(setting.helm ?? '')}`,
      ]
    }),
    'secretEnv:',
    ...secret.flatMap(({ env, doc }) => [
      `  # ${doc}`,
      `  ${env}: ${env.toLowerCase().replaceAll('_', '-')}`,
    ]),
    '',
  ].join('\n')
}

/** What the blocks of renderHelmEnv may hold, as JSON schemas; '' leaves the default everywhere. */
export function renderHelmEnvSchema(): { env: object; secretEnv: object } {
  const closed = (properties: object) => ({
    type: 'object',
    additionalProperties: false,
    properties,
  })
  const pick = (secret: boolean, schemaOf: (setting: Setting) => object) =>
    closed(
      Object.fromEntries(
        settings
          .filter((setting) => (setting.secret ?? false) === secret)
          .map((setting) => [setting.env, schemaOf(setting)]),
      ),
    )
  const secretKey = { type: 'string', minLength: 1 }
  return { env: pick(false, helmSchema), secretEnv: pick(true, () => secretKey) }
}

/** Numbers and booleans may be written as such, or as the texts that variables are. */
function helmSchema({ schema }: Setting): object {
  const {
    type,
    minimum,
    maximum,
    pattern,
    enum: values,
  } = z.toJSONSchema(schema, {
    io: 'input',
    unrepresentable: 'any',
  })
  if (type === 'integer' || type === 'number') {
    const digits = type === 'integer' ? '^[0-9]*$' : '^[0-9]*([.][0-9]+)?$'
    return {
      anyOf: [
        { type, minimum, maximum },
        { type: 'string', pattern: digits },
      ],
    }
  }
  if (schema.safeParse('true').data === true) return { enum: ['', true, false, 'true', 'false'] }
  if (values !== undefined) return { enum: ['', ...values] }
  return { type: 'string', ...(pattern !== undefined && { pattern: `^$|${pattern}` }) }
}
