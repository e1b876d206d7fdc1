/**
 * `npm start`: the whole broker, from a fresh clone, until Ctrl-C.
 *
 * Installs packages when they are missing, finds or starts Redis, runs every service in one child
 * process, declares the queue `hello`, and prints where everything is. Exit codes: 0 stopped in
 * order, 1 failed. Plain JavaScript: it runs on the Node at hand, before anything is installed.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { prepare, ROOT } from './prepare.mjs'
import { openRedis } from './redis.mjs'

/** npm passes a Ctrl-C on that the terminal has sent us already: together they are one. */
const SAME_SIGNAL_MS = 500
/** Above the longest SLUICE_DRAIN_MS: the services end themselves before. */
const STOP_MS_MAX = 610_000
const QUEUE = 'hello'

/** @param {string} line */
const say = (line) => process.stderr.write(`sluice: ${line}\n`)

const [argument, ...rest] = process.argv.slice(2)
if (argument === undefined) {
  process.exitCode = await start().catch((error) => {
    say(error instanceof Error ? error.message : String(error))
    return 1
  })
} else if ((argument === '--help' || argument === '-h') && rest.length === 0) {
  process.stdout.write(usage())
} else {
  say(`there is no option ${[argument, ...rest].join(' ')}\n\n${usage()}`)
  process.exitCode = 1
}

/** @returns {Promise<number>} the exit code, once everything has stopped. */
async function start() {
  const node = prepare(say)
  const data = resolve(process.env.SLUICE_DATA_DIR || join(ROOT, '.data'))
  const stop = stopSignals()
  const redis = await openRedis({ dir: join(data, 'redis'), persist: true, say })
  try {
    if (stop.first.aborted) return 0
    say(`Redis: ${redis.from}`)
    return await serve({ node, data, redis, stop })
  } finally {
    await redis.stop()
  }
}

/**
 * @param {object} parts
 * @param {string} parts.node
 * @param {string} parts.data
 * @param {import('./redis.mjs').RunningRedis} parts.redis
 * @param {{ first: AbortSignal, second: AbortSignal }} parts.stop
 */
async function serve({ node, data, redis, stop }) {
  const main = join(ROOT, 'services', 'all-in-one', 'src', 'main.ts')
  const child = spawn(node, ['--disable-warning=ExperimentalWarning', main], {
    env: { ...process.env, REDIS_URL: redis.url, SLUICE_DATA_DIR: data },
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    detached: true, // Ctrl-C reaches it from us, once
  })
  const ended = once(child, 'close')
  stop.first.addEventListener('abort', () => {
    say('stopping: finishing what is open (again to end at once)')
    child.kill('SIGTERM')
    setTimeout(() => child.kill('SIGKILL'), STOP_MS_MAX).unref()
  })
  stop.second.addEventListener('abort', () => child.kill('SIGKILL'))

  child.on('message', (message) => {
    if (typeof message !== 'object' || message === null || !('http' in message)) return
    welcome(/** @type {{ http: string }} */ (message), data).catch((error) => {
      if (!stop.first.aborted) say(`the queue ${QUEUE} could not be declared: ${error.message}`)
    })
  })
  let failed = false
  let over = false
  void redis.ended.then((what) => {
    if (over) return // we ended it
    failed = true
    say(what)
    child.kill('SIGTERM')
  })

  const [code, signal] = await ended
  over = true
  if (stop.first.aborted && !failed) {
    if (code === 0 || signal === 'SIGTERM') say('stopped; the next start finds every message again')
    return code === 0 || signal === 'SIGTERM' ? 0 : 1
  }
  say(`the services ended: ${signal ?? `exit code ${code}`}`)
  return 1
}

/**
 * Declares the queue of the example and says where everything is.
 *
 * @param {{ http: string, amqp?: string }} doors
 * @param {string} data
 */
async function welcome({ http, amqp }, data) {
  const base = http.replace('//0.0.0.0:', '//127.0.0.1:').replace('//[::]:', '//[::1]:')
  const user = process.env.SLUICE_ADMIN_USER || 'admin'
  const given = process.env.SLUICE_ADMIN_PASSWORD
  const file = join(data, 'admin-password')
  const password = given || readFileSync(file, 'utf8').trim()
  const queue = `${base}/v1/vhosts/%2F/queues/${QUEUE}`
  const answer = await fetch(queue, {
    method: 'PUT',
    headers: {
      authorization: `Basic ${Buffer.from(`${user}:${password}`).toString('base64')}`,
      'content-type': 'application/json',
    },
    body: '{}',
  })
  // 409: it is there already, as somebody wanted it.
  if (!answer.ok && answer.status !== 409) throw new Error(await answer.text())

  const credential = given ? `"${user}:$SLUICE_ADMIN_PASSWORD"` : `${user}:${password}`
  process.stdout.write(`
Sluice serves.

  API          ${base}/v1      described at ${base}/docs
  AMQP 0-9-1   ${amqp ?? 'not served'}
  health       ${base}/readyz
  metrics      ${base}/metrics
  credential   ${user}, ${given ? 'with the password in SLUICE_ADMIN_PASSWORD' : `${password}      kept in ${file}`}

Publish a message to the queue '${QUEUE}', then lease it:

  curl -u ${credential} -H 'content-type: text/plain' -d 'Hello, world' ${queue}/messages
  curl -u ${credential} -H 'content-type: application/json' -d '{"max":1}' ${queue}/leases

Ctrl-C drains and stops everything.

`)
}

/**
 * SIGINT, SIGTERM and SIGHUP: the first asks everything to stop, the second ends it.
 */
function stopSignals() {
  const first = new AbortController()
  const second = new AbortController()
  let at = 0
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
    process.on(signal, () => {
      if (at === 0) at = Date.now()
      else if (Date.now() - at < SAME_SIGNAL_MS) return
      if (first.signal.aborted) second.abort()
      first.abort()
    })
  }
  return { first: first.signal, second: second.signal }
}

function usage() {
  const page = readFileSync(join(ROOT, 'docs', 'configuration.md'), 'utf8')
  const settings = [...page.matchAll(/^\| `(\w+)` \| (?:`([^`]*)`)? *\| (.*) \|$/gm)]
  const lines = settings.map(
    ([, name, fallback, doc = '']) =>
      `  ${name}${fallback ? ` (${fallback})` : ''}\n      ${doc.replaceAll('`', '')}`,
  )
  return `npm start [-- --help]

Starts the whole broker in one process and prints where it is and how to publish a first message.
Redis is REDIS_URL; else one is started from PATH, from packages fetched into your cache, or in
Docker, and keeps everything under .data. Settings are environment variables (default in brackets):

${lines.join('\n')}
`
}
