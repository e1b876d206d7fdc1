/** charts/sluice/README.md: every value of the chart, from the comments of values.yaml. */

interface Row {
  readonly path: string
  readonly value: string
  readonly doc: string
}

const GENERATED = '# Generated from libs/config'

/** Of a values.yaml in the style of ours: two spaces a level, comments before their key. */
function rowsOf(values: string): Row[] {
  const rows: Row[] = []
  const parents: string[] = []
  let comment: string[] = []
  let inherited: string[] = []
  for (const line of values.split('\n')) {
    if (line.startsWith(GENERATED)) break
    const said = /^\s*# (.*)$/.exec(line)?.[1]
    if (said !== undefined) {
      comment.push(said)
      continue
    }
    const [, spaces, key, value] = /^( *)([\w-]+): ?(.*)$/.exec(line) ?? []
    if (key === undefined) {
      comment = []
      continue
    }
    const depth = spaces!.length / 2
    parents.length = depth
    parents.push(key)
    if (value !== '') {
      const doc = [...(depth > 0 ? inherited : []), ...comment].join(' ')
      rows.push({ path: parents.join('.'), value: value!, doc })
      inherited = []
    } else if (depth === 0) inherited = comment
    else inherited.push(...comment)
    comment = []
  }
  return rows
}

export function renderChartReadme(values: string): string {
  const cell = (text: string) => text.replaceAll('|', '\\|')
  return [
    '# The chart',
    '',
    'Installs Sluice on Kubernetes; [docs/kubernetes.md](../../docs/kubernetes.md) goes from an empty',
    'cluster to a first message. A value that does not exist, or is of the wrong type, is refused.',
    '',
    '| Value | Default | Meaning |',
    '| --- | --- | --- |',
    ...rowsOf(values).map(
      ({ path, value, doc }) => `| \`${path}\` | \`${cell(value)}\` | ${cell(doc)} |`,
    ),
    '| `env.<NAME>` | | A [setting](../../docs/configuration.md); an empty one leaves its default. |',
    '| `secretEnv.<NAME>` | | The key of the Secret that holds a setting which is secret. |',
    '',
    'Generated from `charts/sluice/values.yaml` by `npm run generate`.',
    '',
  ].join('\n')
}
