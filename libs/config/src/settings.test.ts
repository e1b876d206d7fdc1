import assert from 'node:assert/strict'
import { test } from 'node:test'
import { renderConfiguration, renderHelmEnv } from './render.ts'
import { loadConfig, maskedConfig, SETTINGS } from './settings.ts'

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
