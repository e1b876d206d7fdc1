/**
 * Finds functions that are too long, by their indentation: the sources are formatted, so a block
 * that a line opens ends at the next line of the same indentation that starts with its brace.
 */

const CONTROL = /^\s*(?:\} )?(?:if|else|for|while|do|switch|try|catch|finally|with)\b/
/** What stands before the brace: a function, an arrow, a method, the end of a long header. */
const HEADERS = [
  /\bfunction\b.* \{$/,
  /=> \{$/,
  /^\s*(?:(?:static|async|override|get|set|\*) *)*#?[\w$]+\(.*\)(?:: .+)? \{$/,
  /^\s*\)(?:: .+)? \{$/,
]

/** Line numbers from 1, and lengths in lines, header and closing brace included. */
export function longFunctions(
  lines: readonly string[],
  linesMax: number,
): { line: number; length: number }[] {
  const found: { line: number; length: number }[] = []
  for (const [index, line] of lines.entries()) {
    if (CONTROL.test(line) || !HEADERS.some((header) => header.test(line))) continue
    const indent = line.slice(0, line.search(/\S/))
    const start = line.trimStart().startsWith(')') ? headerOf(lines, index, indent) : index
    if (start === undefined) continue
    const end = lines.findIndex((other, at) => at > index && other.startsWith(`${indent}}`))
    const length = end - start + 1
    if (length > linesMax) found.push({ line: start + 1, length })
  }
  return found
}

/** Where a header that ends at `index` began; undefined for that of an `if` or the like. */
function headerOf(lines: readonly string[], index: number, indent: string): number | undefined {
  for (let at = index - 1; at >= 0; at--) {
    const line = lines[at]!
    if (!line.startsWith(indent) || /^\s/.test(line.slice(indent.length))) continue
    return CONTROL.test(line) ? undefined : at
  }
  return undefined
}
