/** Alerts, their runbooks and the dashboard speak of what there is, and fire when they should. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { METRICS } from '@sluice/telemetry'

const ROOT = new URL('../../', import.meta.url)
const read = (path: string) => readFileSync(new URL(path, ROOT), 'utf8')
const FOLDER = fileURLToPath(new URL('charts/sluice/monitoring', ROOT))
const rules = read('charts/sluice/monitoring/alerts.yaml')
const alerts = [...rules.matchAll(/- alert: (\w+)/g)].map(([, name]) => name!)

test('each alert has a runbook, a test, and a link to the runbook; and no runbook is left over', () => {
  const operating = read('docs/operating.md')
  const runbooks = [...operating.matchAll(/^### (Sluice\w+)$/gm)].map(([, name]) => name!)
  assert.deepEqual(runbooks.sort(), alerts.toSorted())
  const tests = read('charts/sluice/monitoring/alerts.test.yaml')
  for (const name of alerts) {
    assert.ok(rules.includes(`runbook: docs/operating.md#${name.toLowerCase()}\n`), name)
    const fires = new RegExp(`alertname: ${name}\n\\s+exp_alerts:`)
    assert.match(tests, fires, `${name} fires in no test`)
  }
})

test('alerts and dashboard ask for metrics and labels that there are', () => {
  const known = new Map<string, readonly string[]>()
  for (const { name, kind, labels } of Object.values(METRICS)) {
    const of = Object.keys(labels)
    if (kind !== 'histogram') known.set(name, of)
    else for (const suffix of ['_bucket', '_sum', '_count']) known.set(name + suffix, [...of, 'le'])
  }
  const asked = rules + read('charts/sluice/monitoring/dashboard.json').replaceAll('\\"', '"')
  const names = new Set(asked.match(/\bsluice_\w+/g))
  for (const name of names) assert.ok(known.has(name), `${name} is no metric`)
  for (const [, name, selector] of asked.matchAll(/\b(sluice_\w+)\{([^}]*)\}/g)) {
    for (const [, label] of selector!.matchAll(/(\w+)[=!]/g)) {
      assert.ok(known.get(name!)!.includes(label!), `${name} has no label ${label}`)
    }
  }
})

test('promtool: the rules are sound, fire when they should, and else do not', (t) => {
  if (spawnSync('promtool', ['--version']).error) return t.skip('promtool is not on PATH')
  const promtool = (...args: string[]) => spawnSync('promtool', args, { cwd: FOLDER })
  for (const args of [
    ['check', 'rules', 'alerts.yaml'],
    ['test', 'rules', 'alerts.test.yaml'],
  ]) {
    const { status, stdout, stderr } = promtool(...args)
    assert.equal(status, 0, `${stdout}${stderr}`)
  }
})

test('promtool: what the dashboard asks is understood, for all that may be chosen', (t) => {
  if (spawnSync('promtool', ['--version']).error) return t.skip('promtool is not on PATH')
  const { panels } = JSON.parse(read('charts/sluice/monitoring/dashboard.json'))
  const asked: string[] = panels.flatMap(({ targets = [] }) => targets.map(({ expr }) => expr))
  assert.ok(asked.length > 20)
  const chosen = (expr: string) =>
    expr.replaceAll('$__rate_interval', '1m').replaceAll(/\$(vhost|queue)/g, 'a|b')
  const rules = asked.map((expr, index) => ({ record: `asked:${index}`, expr: chosen(expr) }))
  const folder = mkdtempSync(join(tmpdir(), 'sluice-dashboard-'))
  try {
    const file = join(folder, 'rules.yaml') // JSON, which is YAML too
    writeFileSync(file, JSON.stringify({ groups: [{ name: 'dashboard', rules }] }))
    const { status, stdout, stderr } = spawnSync('promtool', ['check', 'rules', file])
    assert.equal(status, 0, `${stdout}${stderr}`)
  } finally {
    rmSync(folder, { recursive: true })
  }
})
