/**
 * Runs a TypeScript file of ours, with its arguments: installs packages when they are missing, and
 * uses a Node that is new enough. Plain JavaScript, for the Node at hand.
 */
import { spawn } from 'node:child_process'
import { prepare, ROOT } from './prepare.mjs'

/** @param {string} line */
const say = (line) => process.stderr.write(`sluice: ${line}\n`)

try {
  const node = prepare(say)
  const child = spawn(node, ['--disable-warning=ExperimentalWarning', ...process.argv.slice(2)], {
    cwd: ROOT,
    stdio: 'inherit',
  })
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
