#!/usr/bin/env node
/**
 * The `sluice` command: runs the services it is given, in one process; or talks to a broker that
 * runs already (libs/cli).
 *
 * Exit codes: 0 stopped in order, 1 failed, 2 not understood; those of commands are in libs/cli.
 */
import { commandNames, runCommand } from '@sluice/cli'

/** How long what is left of parts that were given up on may keep the process, ms. */
const LEFTOVERS_MS_MAX = 1_000

process.exitCode = await main()
setTimeout(() => process.exit(), LEFTOVERS_MS_MAX).unref()

async function main(): Promise<number> {
  const args = process.argv.slice(2)
  if (commandNames().some((command) => args.includes(command))) return await runCommand(args)
  const { serve } = await import('./serve.ts') // with all the services: a command is quicker without
  return serve()
}
