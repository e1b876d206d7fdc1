/** `npm run example`: brings what is missing, then plays examples/events on a newer Node. */
import { spawn } from 'node:child_process'
import { prepare, ROOT } from './prepare.mjs'

/** @param {string} line */
const say = (line) => process.stderr.write(`sluice: ${line}\n`)

try {
  const node = prepare(say)
  const args = ['--disable-warning=ExperimentalWarning', 'examples/events/run.ts']
  const child = spawn(node, args, { cwd: ROOT, stdio: 'inherit' })
  // Ctrl-C in a terminal reaches it directly; a signal to this process alone is passed on.
  process.on('SIGINT', () => {})
  process.on('SIGTERM', () => child.kill('SIGTERM'))
  child.on('exit', (code) => {
    process.exitCode = code ?? 1
  })
} catch (error) {
  say(error instanceof Error ? error.message : String(error))
  process.exitCode = 1
}
