import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { renderConfiguration, renderHelmEnv } from './render.ts'
import { COMMAND_VARIABLES, loadConfig, maskedConfig, SETTINGS } from './settings.ts'

const REDIS_URL = 'redis://127.0.0.1:6379'

test('defaults hold where nothing is set, and an empty variable counts as unset', () => {
  const config = loadConfig({ REDIS_URL, SLUICE_HTTP_PORT: '' })
  assert.equal(config.httpPort, 8080)
  assert.equal(config.httpHost, '127.0.0.1')
  assert.equal(config.dataDir, '.data')
  assert.equal(config.durability, 'memory')
  assert.equal(config.adminPassword, undefined)
  assert.equal(config.allowEviction, false)
})

test('one error names everything wrong', () => {
  assert.throws(
    () =>
      loadConfig({ SLUICE_HTTP_PORT: '70000', SLUICE_FSYNC: 'never', SLUICE_DURABILITY: 'disk' }),
    (error: Error) =>
      [
        'REDIS_URL: is not set',
        'SLUICE_HTTP_PORT: ',
        'SLUICE_FSYNC: ',
        'SLUICE_DURABILITY: ',
      ].every((part) => error.message.includes(part)),
  )
})

test('a SLUICE_ variable that does not exist is an error, so that a typo is not silent', () => {
  assert.throws(
    () => loadConfig({ REDIS_URL, SLUICE_HTPP_PORT: '1' }),
    /SLUICE_HTPP_PORT: there is no/,
  )
})

test('what the commands read is no error where a broker is started from the same shell', () => {
  const cli = new URL('../../cli/src/profile.ts', import.meta.url)
  const read = [...readFileSync(cli, 'utf8').matchAll(/\bSLUICE_(?!DATA_DIR)[A-Z]+\b/g)]
  assert.deepEqual(new Set(read.map(([name]) => name)), new Set(COMMAND_VARIABLES))
  const env = Object.fromEntries(COMMAND_VARIABLES.map((name) => [name, 'x']))
  assert.equal(loadConfig({ REDIS_URL, ...env }).httpPort, 8080)
})

test('an error says what a value must be', () => {
  for (const [name, value, message] of [
    ['SLUICE_HTTP_PORT', 'http', 'must be a number'],
    ['SLUICE_HTTP_PORT', '80.5', 'must be a whole number'],
    ['SLUICE_HTTP_PORT', '70000', 'must be at most 65535'],
    ['SLUICE_DRAIN_MS', '-1', 'must be at least 0'],
    ['SLUICE_ADMIN_PASSWORD', 'short', 'must have at least 8 characters'],
    ['SLUICE_LOG_LEVEL', 'loud', 'must be one of trace, debug, info, warn, error, fatal, silent'],
    ['SLUICE_TLS_ONLY', 'perhaps', 'must be one of true, '],
    ['SLUICE_DURABILITY', 'disk', 'must be memory, fsync or replicas=<1..99>'],
  ] as const) {
    assert.throws(
      () => loadConfig({ REDIS_URL, [name]: value }),
      (error: Error) => error.message.includes(`${name}: ${message}`),
      name,
    )
  }
})

test('an error never repeats a value: it may be a secret', () => {
  const secret = 'swordf'
  assert.throws(
    () => loadConfig({ REDIS_URL: `http://:${secret}@x`, SLUICE_ADMIN_PASSWORD: secret }),
    (error: Error) => !error.message.includes(secret),
  )
})

test('secrets are masked, other settings are not', () => {
  const masked = maskedConfig(
    loadConfig({ REDIS_URL: 'redis://:hush@h', SLUICE_ADMIN_PASSWORD: 'hush hush' }),
  )
  assert.equal(masked['REDIS_URL'], '***')
  assert.equal(masked['SLUICE_ADMIN_PASSWORD'], '***')
  assert.equal(masked['SLUICE_HTTP_PORT'], 8080)
  assert.doesNotMatch(JSON.stringify(masked), /hush/)
})

test('booleans and durabilities are read', () => {
  const config = loadConfig({
    REDIS_URL,
    SLUICE_ALLOW_EVICTION: 'true',
    SLUICE_DURABILITY: 'replicas=2',
  })
  assert.equal(config.allowEviction, true)
  assert.equal(config.durability, 'replicas=2')
})

test('the page and the Helm block name every setting', () => {
  for (const { env } of Object.values(SETTINGS)) {
    assert.match(renderConfiguration(), new RegExp(`\\| \`${env}\` \\|`))
    assert.match(renderHelmEnv(), new RegExp(`^  ${env}: `, 'm'))
  }
})

test('what push may reach is a list of networks, addresses, hosts and domains', () => {
  const list = (text: string) => loadConfig({ REDIS_URL, SLUICE_PUSH_ALLOW: text }).pushAllow
  assert.deepEqual(list(''), [])
  const entries = ['10.0.0.0/8', '::1', 'fd00::/8', 'localhost', '*.corp.example']
  assert.deepEqual(list(`${entries.join(' , ')},`), entries)
  for (const wrong of [
    '10.0.0.0/33',
    '1.2.3',
    '1.2.3.4.5',
    'http://a',
    'a b',
    '*',
    'a/8',
    '::/129',
  ]) {
    assert.throws(() => list(wrong), /SLUICE_PUSH_ALLOW: is a list/, wrong)
  }
})
