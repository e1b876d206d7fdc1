/** doctor: what keeps the broker from its promises, and what to change. */
import { Command } from 'commander'
import { Exit } from './exit.ts'
import { open } from './profile.ts'
import { type Terminal, table } from './terminal.ts'

interface Finding {
  readonly level: 'ok' | 'warn' | 'bad'
  readonly what: string
  readonly found: string
  readonly remedy?: string
}

const SIGNS = { ok: 'ok', warn: 'WARN', bad: 'BAD' } as const

export function doctorCommand(terminal: Terminal): Command {
  return new Command('doctor')
    .description('checks Redis, persistence, clocks, memory and queues; exit code 4 on findings')
    .action(async (_options, command: Command) => {
      const { sluice, json } = open(command)
      const { findings } = (await sluice.request('GET', '/v1/doctor')) as { findings: Finding[] }
      if (json) for (const finding of findings) terminal.print(finding, { json })
      else terminal.print(findings, { json, text: () => told(findings) })
      if (findings.some(({ level }) => level !== 'ok')) throw new Exit(4)
    })
}

function told(findings: readonly Finding[]): string {
  const rows = findings.map(({ level, what, found }) => [SIGNS[level], what, found])
  const remedies = findings.flatMap(({ what, remedy }) => (remedy ? [`${what}: ${remedy}`] : []))
  const list = table(['', 'WHAT', 'FOUND'], rows)
  return remedies.length === 0 ? list : `${list}\n\nWhat to change:\n  ${remedies.join('\n  ')}`
}
