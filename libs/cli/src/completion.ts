/** completion: what a shell needs to finish words. */
import { Argument, Command } from 'commander'
import type { Terminal } from './terminal.ts'

export function completionCommand(terminal: Terminal, root: Command): Command {
  return new Command('completion')
    .description('for your shell, e.g. source <(sluice completion bash)')
    .addArgument(new Argument('<shell>').choices(['bash', 'zsh', 'fish']))
    .action((shell: 'bash' | 'zsh' | 'fish') => terminal.write(SCRIPTS[shell](wordsOf(root))))
}

/** What may follow each command, by the words before it: '' for none. */
function wordsOf(command: Command, before = ''): Map<string, string[]> {
  const options = command.options.flatMap(({ long }) => (long ? [long] : []))
  const words = new Map([
    [before, [...command.commands.map((sub) => sub.name()), ...options, '--help']],
  ])
  for (const sub of command.commands) {
    for (const entry of wordsOf(sub, before === '' ? sub.name() : `${before} ${sub.name()}`)) {
      words.set(...entry)
    }
  }
  return words
}

type Words = ReadonlyMap<string, readonly string[]>

const cases = (words: Words) =>
  [...words].map(([before, next]) => `    '${before}') words='${next.join(' ')}' ;;`).join('\n')

const bash = (words: Words) => `_sluice() {
  local words before='' word
  for word in "\${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case "$word" in -*) ;; *) before="\${before:+$before }$word" ;; esac
  done
  while :; do
    words=''
    case "$before" in
${cases(words)}
    esac
    [ -n "$words" ] || [ -z "$before" ] && break
    case "$before" in *' '*) before="\${before% *}" ;; *) before='' ;; esac
  done
  COMPREPLY=($(compgen -W "$words" -- "\${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _sluice sluice
`

const SCRIPTS: Readonly<Record<'bash' | 'zsh' | 'fish', (words: Words) => string>> = {
  bash,
  zsh: (words) => `autoload -U +X bashcompinit && bashcompinit\n${bash(words)}`,
  fish: (words) =>
    [...words]
      .map(([before, next]) => {
        const seen = before.split(' ').filter((word) => word !== '')
        const when =
          seen.length === 0
            ? '__fish_use_subcommand'
            : seen.map((word) => `__fish_seen_subcommand_from ${word}`).join('; and ')
        return `complete -c sluice -n '${when}' -a '${next.join(' ')}'\n`
      })
      .join(''),
}
