/**
 * The commands of a page of documentation, made into a script, and what it should print.
 *
 * Every block marked `sh` is run; what is only to be read is marked `console`. A line `# => text`
 * is what the commands before it print, where `...` stands for anything. All blocks of a page run in
 * one shell, in their order.
 */

/** Commands up to the text they should print, or to the end of their block. */
export interface Step {
  /** Of its first line. */
  readonly line: number
  readonly commands: string
  /** Lines that it should print; undefined where the page says nothing about it. */
  readonly prints: readonly string[] | undefined
}

const PRINTS = '# => '

export function stepsOf(markdown: string): Step[] {
  const steps: Step[] = []
  const lines = markdown.split('\n')
  let block: number | undefined
  for (const [index, line] of lines.entries()) {
    if (block === undefined) {
      if (line === '```sh') block = index + 1
    } else if (line.startsWith('```')) {
      steps.push(...stepsIn(lines.slice(block, index), block + 1))
      block = undefined
    }
  }
  return steps
}

function stepsIn(lines: readonly string[], first: number): Step[] {
  const steps: Step[] = []
  let commands: string[] = []
  let prints: string[] = []
  let start = first
  const end = (next: number) => {
    if (commands.some((line) => line.trim() !== '')) {
      const said = prints.length > 0 ? prints : undefined
      steps.push({ line: start, commands: commands.join('\n'), prints: said })
    }
    commands = []
    prints = []
    start = next
  }
  for (const [index, line] of lines.entries()) {
    if (line.startsWith(PRINTS)) prints.push(line.slice(PRINTS.length))
    else {
      if (prints.length > 0) end(first + index)
      commands.push(line)
    }
  }
  end(first + lines.length)
  return steps
}

/** A script that ends at the first command that fails, with each step's output in a file `<n>`. */
export function scriptOf(steps: readonly Step[]): string {
  const parts = steps.map(
    ({ line, commands }, index) => `AT=${line}\n{\n${commands}\n} > "$OUTPUT/${index}"`,
  )
  return [
    'set -Eeuo pipefail',
    `trap 'echo "the commands from line $AT on failed" >&2' ERR`,
    ...parts,
    '',
  ].join('\n')
}

/** Whether a text is what a page says, `...` standing for anything. */
export function isAsSaid(text: string, prints: readonly string[]): boolean {
  const literal = (part: string) => part.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&')
  const pattern = prints.join('\n').split('...').map(literal).join('[^]*?')
  return new RegExp(`^${pattern}$`).test(text.trimEnd())
}

/** Commands that would hide a refusal: curl neither with -f nor telling its status. */
export function hidesRefusals({ commands }: Step): boolean {
  const calls = commands.replaceAll('\\\n', ' ').match(/\bcurl\b[^\n]*/g) ?? []
  return calls.some((call) => !/^curl -fsS /.test(call) && !call.includes('%{http_code}'))
}
