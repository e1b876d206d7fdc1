/** The command line, as a child process against a real broker. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { type TestContext, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { privateRedis, waitFor } from '@sluice/testkit'
import { deploy } from '../support/deployment.ts'
import { PASSWORD } from '../support/http.ts'

const MAIN = fileURLToPath(new URL('../../services/all-in-one/src/main.ts', import.meta.url))
/** Each look is a command: a process that starts. */
const COMMANDS_MS_MAX = 60_000

interface Outcome {
  readonly code: number
  readonly out: string
  readonly err: string
}

async function start(t: TestContext) {
  const { url: redisUrl } = await privateRedis(t)
  const deployment = await deploy(t, ['router delivery reaper'], { redisUrl })
  const folder = mkdtempSync(join(tmpdir(), 'sluice-cli-'))
  t.after(() => rmSync(folder, { recursive: true }))
  const env = {
    PATH: process.env['PATH'],
    NODE_COMPILE_CACHE: process.env['NODE_COMPILE_CACHE'],
    SLUICE_URL: deployment.processes[0]!.http,
    SLUICE_PASSWORD: PASSWORD,
    SLUICE_PROFILES: join(folder, 'profiles.json'),
  }
  const sluice = async (
    line: string,
    { input = '', more = {} }: { input?: string; more?: NodeJS.ProcessEnv } = {},
  ): Promise<Outcome> => {
    const child = spawn(process.execPath, [MAIN, ...line.split(' ')], { env: { ...env, ...more } })
    child.stdin.end(input)
    const [out, err, [code]] = await Promise.all([
      text(child.stdout),
      text(child.stderr),
      once(child, 'close') as Promise<[number]>,
    ])
    return { code, out, err }
  }
  const done = async (line: string, input?: string) => {
    const { code, out, err } = await sluice(line, { ...(input !== undefined && { input }) })
    assert.equal(code, 0, `${line}: ${err}`)
    assert.equal(err, '', 'quiet in a pipe')
    return out
  }
  return { sluice, done, folder, env }
}

const lines = (out: string) => out.trimEnd().split('\n')

test('declare, publish, look, consume, delete', async (t) => {
  const { done, sluice, folder } = await start(t)
  assert.equal(await done('declare queue q -a x-max-length=500'), 'q: created\n')
  assert.equal(await done('declare queue q -a x-max-length=500'), 'q: was there\n')
  await done('declare exchange events --type topic')
  await done('declare binding events q --key order.#')
  assert.equal(await done('publish q hello'), 'published to q\n')
  await done('publish --exchange events --key order.new -H kind=7', '{"from":"stdin"}')
  const file = join(folder, 'events.ndjson')
  writeFileSync(file, '{"n":1}\n\n{"n":2}\n')
  const published = JSON.parse(await done(`publish q --ndjson --json -f ${file}`))
  assert.deepEqual(published, { published: 2, duplicates: 0, unrouted: 0, failed: 0 })
  const begun = performance.now()
  await done('publish q --lines --rate 50', `${'line\n'.repeat(50)}`)
  assert.ok(performance.now() - begun > 800, 'a rate is kept')

  assert.match(await done('ls'), /QUEUE +READY[\s\S]*\nq +54 +0/)
  assert.equal(JSON.parse(lines(await done('peek q -n 1 --json'))[0]!).body, 'hello')
  const consumed = lines(await done('consume q -n 4'))
  assert.deepEqual(consumed, ['hello', '{"from":"stdin"}', '{"n":1}', '{"n":2}'])
  assert.equal(lines(await done('consume q --idle 1500')).length, 50)
  const top = JSON.parse(
    lines(await done('top -i 200 --json')).find((line) => line.includes('"q"'))!,
  )
  assert.deepEqual([top.queue, top.ready], ['q', 0])

  await done('delete queue q')
  const gone = await sluice('peek q')
  assert.deepEqual([gone.code, gone.out], [1, ''])
  assert.match(gone.err, /queue_not_found/)
})

test('dead letters are shown and redriven, schedules set, the doctor asked', async (t) => {
  const { done, sluice, env } = await start(t)
  await done(
    'declare queue work -a x-message-ttl=1 -a x-dead-letter-exchange= -a x-dead-letter-routing-key=dead',
  )
  await done('declare queue dead')
  await done('publish work late')
  const died = async () => (await done('dead-letters dead')).includes('expired')
  await waitFor(died, { what: 'the dead letter', timeoutMs: COMMANDS_MS_MAX })
  assert.match(await done('redrive dead'), /^1 back in their queues, 0 left/)

  await done('schedules set beat tick --every 60000 -k work')
  assert.match(await done('schedules list'), /beat +every 60 s/)
  await done('schedules pause beat')
  assert.match(await done('schedules'), /paused/)
  await done('schedules delete beat')

  const doctor = await sluice('doctor --json')
  assert.equal(doctor.code, 4, 'Redis has no memory limit here')
  const findings = lines(doctor.out).map((line) => JSON.parse(line))
  assert.equal(findings.find(({ what }) => what === 'persistence').level, 'ok')
  assert.ok(!(doctor.out + doctor.err).includes(env.SLUICE_PASSWORD))
})

test('definitions: exported, compared, applied', async (t) => {
  const { done, sluice, folder } = await start(t)
  const file = join(folder, 'definitions.json')
  await done('declare queue kept')
  await done(`export ${file}`)
  assert.equal(statSync(file).mode & 0o777, 0o600)
  assert.equal((await sluice(`diff ${file}`)).code, 0)
  await done('delete queue kept')
  const diff = await sluice(`diff ${file}`)
  assert.equal(diff.code, 4)
  assert.match(diff.out, /\+ create +queue +\/ +kept/)
  await done(`apply ${file}`)
  assert.match(await done('ls'), /kept/)
  const wrong = await sluice('apply -', { input: 'no json' })
  assert.deepEqual([wrong.code, wrong.err], [1, 'sluice: - is no JSON\n'])
})

test('whoever publishes what they type is told so, and that there is no such queue', async (t) => {
  const { env, sluice } = await start(t)
  const line = `'${process.execPath}' '${MAIN}' publish nowhere`
  const child = spawn('script', ['-qec', line, '/dev/null'], { env }) // which is a terminal
  const said = text(child.stdout)
  child.stdin.write('typed\n\u0004')
  const out = await said
  assert.match(out, /sluice: reads what you type; Ctrl-D ends it/)
  assert.match(out, /sluice: There is no queue "nowhere"\. \(unroutable\)/)
  assert.doesNotMatch((await sluice('publish nowhere')).err, /reads what you type/)
})

test('exit codes tell what kind of failure it was', async (t) => {
  const { sluice } = await start(t)
  const away = { SLUICE_URL: 'http://127.0.0.1:1' }
  for (const [line, code, more, why] of [
    ['publish nowhere x', 1, {}],
    ['publish', 2, {}],
    ['declare queue q -a nonsense', 2, {}],
    ['peek q -n 0', 2, {}],
    ['ls --nonsense', 2, {}],
    ['ls', 3, away, /no answer from http:\/\/127\.0\.0\.1:1\b/],
    ['ls --url 127.0.0.1:8080', 2, {}, /a broker's URL is like http:/],
    ['ls --url http://admin:hush@127.0.0.1:1', 2, {}, /^(?!.*hush).*without user and password/],
    ['ls', 1, { SLUICE_PASSWORD: 'wrong' }],
    ['ls', 1, { SLUICE_PASSWORD: undefined }, /no password for admin .*SLUICE_PASSWORD/],
    ['ls --profile nobody', 1, {}],
    ['ls --help', 0, {}],
  ] as const) {
    const outcome = await sluice(line, { more })
    assert.equal(outcome.code, code, `${line}: ${outcome.err}`)
    if (why !== undefined) assert.match(outcome.err, why)
    if (line === 'ls --help') assert.match(outcome.out, /--url <url>/)
    if (code !== 0) assert.equal(outcome.out, '', line)
    assert.ok(code === 0 || outcome.err !== '', line)
  }
})

test('dead letters are searched, edited and redriven by jobs that are told what to do', async (t) => {
  const { done, sluice } = await start(t)
  const dead = '-a x-dead-letter-exchange= -a x-dead-letter-routing-key=dead'
  await done(`declare queue work -a x-message-ttl=1 ${dead}`)
  for (const queue of ['dead', 'again']) await done(`declare queue ${queue}`)
  await done('publish work --lines -H team=red', 'one\ntwo\n')
  await done('publish work --lines -H team=blue', `three\nfour\nfive\n${'dull\n'.repeat(57)}`)
  const search = async (filter: string) => {
    const out = await done(`dead-letters dead -n 100 --json ${filter}`.trimEnd())
    return out === '' ? [] : lines(out).map((line) => JSON.parse(line))
  }
  const all = async () => (await search('')).length === 62
  await waitFor(all, { what: 'the dead letters', timeoutMs: COMMANDS_MS_MAX })

  const bodies = async (filter: string) => (await search(filter)).map(({ body }) => body)
  assert.deepEqual(await bodies('--header team=red'), ['one', 'two'])
  assert.deepEqual(await bodies('--header team=blue --text f'), ['four', 'five'])
  assert.deepEqual(await bodies('--reason rejected'), [])
  const first = await sluice('dead-letters dead --died-in work --limit 1 --json')
  assert.equal(JSON.parse(first.out).body, 'one')
  const after = /there are more: --after (\S+)/.exec(first.err)![1]!
  assert.equal((await bodies(`--after ${after}`)).length, 61)
  assert.deepEqual(await bodies('--since 2999-01-01T00:00:00Z'), [])
  assert.equal((await sluice('dead-letters dead --reason boredom')).code, 2)

  const [three] = await search('--text three')
  const edit = `dead-letters edit dead ${three.id} -b third -H checked=yes --to-queue again`
  assert.equal(await done(`${edit} --remove-header team --remove`), 'copied to again\n')
  const copy = JSON.parse(await done('peek again --json'))
  assert.deepEqual(
    [copy.body, copy.headers.checked, copy.headers.team],
    ['third', 'yes', undefined],
  )
  assert.deepEqual(await bodies('--text three'), [])
  assert.equal((await sluice(`${edit} --remove`)).code, 1, 'it is gone')
  const [dull] = await search('--text dull')
  for (const said of ['discarded\n', 'was not there\n']) {
    assert.equal(await done(`dead-letters discard dead ${dull.id}`), said)
  }
  assert.equal((await sluice('redrive dead --since yesterday')).code, 2)

  const dry = await done('redrive dead --header team=red --to-queue again --dry-run')
  assert.match(dry, /^2 would go back to their queues, 0 left/)
  assert.match(
    await done('redrive dead --header team=red --to-queue again'),
    /^2 back in their queues, 0 left/,
  )
  const { id } = JSON.parse(await done('redrive dead --to-queue again --rate 1 --no-wait --json'))
  assert.match(await done(`redrive pause ${id} dead`), /^paused: /)
  assert.match(await done('redrive jobs dead'), new RegExp(`\\n *${id} +paused `))
  assert.match(await done(`redrive resume ${id} dead --rate 2`), /^(running|waiting): /)
  await done(`redrive cancel ${id} dead`)
  const status = async () =>
    lines(await done('redrive jobs dead --json'))
      .map((line) => JSON.parse(line))
      .find((job) => job.id === id)
  const ended = async () => (await status()).state === 'cancelled'
  await waitFor(ended, { what: 'the end of the job', timeoutMs: COMMANDS_MS_MAX })
  const { redriven, skipped, perSecond } = await status()
  assert.deepEqual([(await search('')).length, skipped, perSecond], [58 - redriven, 0, 2])
  assert.equal((await sluice(`redrive cancel ${id} dead`)).code, 1, 'it has ended')
  assert.match(await done('redrive dead --to-queue again'), / 0 left/)
  assert.deepEqual(await search(''), [])
  assert.equal(lines(await done('consume again -n 61')).length, 61)
})

test('profiles keep brokers by name, for nobody else to read', async (t) => {
  const { sluice, env, folder } = await start(t)
  const bare = { SLUICE_URL: '', SLUICE_PASSWORD: '' }
  const set = await sluice(`profile set here --url ${env.SLUICE_URL}`)
  assert.equal(set.code, 0, set.err)
  const file = join(folder, 'profiles.json')
  assert.equal(statSync(file).mode & 0o777, 0o600)
  assert.ok(readFileSync(file, 'utf8').includes(PASSWORD))
  const unset = { ...bare, SLUICE_URL: undefined, SLUICE_PASSWORD: undefined }
  assert.equal((await sluice('ls --profile here', { more: unset })).code, 0)
  const list = await sluice('profile list', { more: unset })
  assert.match(list.out, /\* +here/)
  assert.ok(!list.out.includes(PASSWORD))
  assert.equal((await sluice('profile remove here', { more: unset })).code, 0)
})

test('completion is a script that each shell reads', async (t) => {
  const { done } = await start(t)
  const script = await done('completion bash')
  const bash = spawn('bash', [
    '-c',
    `${script}\nCOMP_WORDS=(sluice declare q); COMP_CWORD=2; _sluice; echo "\${COMPREPLY[@]}"`,
  ])
  assert.equal(await text(bash.stdout), 'queue\n')
  assert.match(await done('completion fish'), /complete -c sluice/)
})

test('bench measures through a queue of its own, and leaves nothing', async (t) => {
  const { done } = await start(t)
  const result = JSON.parse(await done('bench -n 500 --json'))
  assert.ok(result.consumedPerSecond > 0 && result.p99Ms >= result.p50Ms)
  assert.doesNotMatch(await done('ls'), /sluice-bench/)
})
