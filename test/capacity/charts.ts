/**
 * Small charts as one SVG, by hand: no dependency, and nothing in it but what is shown. It brings
 * its own background, light or dark as the reader's, so it is legible on any page. Pure.
 */
import type { Point } from './fit.ts'

export interface Chart {
  readonly title: string
  /** The line in words, under the title. */
  readonly subtitle: string
  readonly xName: string
  readonly yName: string
  /** Decades instead of steps, on both axes. */
  readonly log?: boolean
  readonly series: readonly Series[]
  /** The fitted line, as a function of x; drawn over the points it goes through. */
  readonly line?: { readonly at: (x: number) => number; readonly upTo: number }
  /** What theory says, dotted. */
  readonly theory?: { readonly name: string; readonly at: (x: number) => number }
  /** The x from which the points leave the line. */
  readonly breakX?: number | undefined
}

export interface Series {
  /** For the legend; '' = none. */
  readonly name: string
  readonly points: readonly Point[]
}

const [WIDTH, HEIGHT, GAP] = [400, 290, 16]
const PLOT = { left: 62, right: 14, top: 58, bottom: 46 }
const HEAD = 52
const COLUMNS = 3
/** Points of a curve. */
const STEPS = 60
const STYLE = `
.page{fill:#ffffff}.panel{fill:#f6f8fa;stroke:#d0d7de}
text{fill:#1f2328;font:12px system-ui,-apple-system,'Segoe UI','Liberation Sans',sans-serif}
.head{font-size:17px;font-weight:600}.title{font-size:14px;font-weight:600}
.quiet{fill:#59636e;font-size:11px}.tick{fill:#59636e;font-size:10.5px}
.axis{stroke:#818b98;fill:none}.grid{stroke:#d8dee4;fill:none}
.line{stroke:#0969da;stroke-width:2;fill:none}.past{stroke-dasharray:5 4;opacity:.75}
.theory{stroke:#8250df;stroke-width:1.5;stroke-dasharray:1.5 3;fill:none}
.break{stroke:#cf222e;stroke-width:1.5;stroke-dasharray:4 3}.broken{fill:#cf222e;font-size:11px}
.s0{fill:#0969da}.s1{fill:#bc4c00}.s2{fill:#1a7f37}.s3{fill:#8250df}
@media (prefers-color-scheme:dark){
.page{fill:#0d1117}.panel{fill:#151b23;stroke:#3d444d}text{fill:#f0f6fc}
.quiet,.tick{fill:#9198a1}.axis{stroke:#9198a1}.grid{stroke:#2a313c}
.line{stroke:#58a6ff}.theory{stroke:#ab7df8}.break{stroke:#f85149}.broken{fill:#f85149}
.s0{fill:#58a6ff}.s1{fill:#f0883e}.s2{fill:#3fb950}.s3{fill:#ab7df8}}
`

/** The charts, three to a row, under a title and a line about where they come from. */
export function chartsSvg(title: string, about: string, charts: readonly Chart[]): string {
  const rows = Math.ceil(charts.length / COLUMNS)
  const width = COLUMNS * (WIDTH + GAP) + GAP
  const height = HEAD + rows * (HEIGHT + GAP) + GAP
  const panels = charts.map((chart, at) => {
    const left = GAP + (at % COLUMNS) * (WIDTH + GAP)
    const top = HEAD + GAP + Math.floor(at / COLUMNS) * (HEIGHT + GAP)
    return `<g transform="translate(${left} ${top})">\n${panel(chart)}\n</g>`
  })
  const box = `viewBox="0 0 ${width} ${height}" width="${width}" height="${height}"`
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" ${box} role="img">`,
    `<title>${escaped(title)}</title>`,
    `<style>${STYLE}</style>`,
    `<rect class="page" width="${width}" height="${height}" rx="8"/>`,
    text({ x: GAP, y: 28, class: 'head' }, title),
    text({ x: GAP, y: 47, class: 'quiet' }, about),
    ...panels,
    '</svg>\n',
  ].join('\n')
}

interface Axis {
  readonly ticks: readonly number[]
  /** Where a value is, in the chart's own pixels. */
  at(value: number): number
}

function panel(chart: Chart): string {
  const points = chart.series.flatMap((series) => series.points)
  const log = chart.log === true
  const x = axis(
    points.map((point) => point.x),
    PLOT.left,
    WIDTH - PLOT.right,
    log,
  )
  const shown = chart.theory === undefined ? [] : points.map((point) => chart.theory!.at(point.x))
  const highest = [...points.map((point) => point.y), ...shown]
  const y = axis(highest, HEIGHT - PLOT.bottom, PLOT.top, log)
  const [bottom, right] = [HEIGHT - PLOT.bottom, WIDTH - PLOT.right]
  const parts = [
    `<rect class="panel" width="${WIDTH}" height="${HEIGHT}" rx="6"/>`,
    text({ x: 14, y: 22, class: 'title' }, chart.title),
    text({ x: 14, y: 39, class: 'quiet' }, chart.subtitle),
    ...y.ticks.flatMap((value) => [
      path('grid', [PLOT.left, y.at(value)], [right, y.at(value)]),
      text({ x: PLOT.left - 6, y: y.at(value) + 3.5, class: 'tick', anchor: 'end' }, short(value)),
    ]),
    ...x.ticks.flatMap((value) => [
      path('axis', [x.at(value), bottom], [x.at(value), bottom + 4]),
      text({ x: x.at(value), y: bottom + 16, class: 'tick', anchor: 'middle' }, short(value)),
    ]),
    path('axis', [PLOT.left, PLOT.top], [PLOT.left, bottom], [right, bottom]),
    text({ x: right, y: bottom + 33, class: 'quiet', anchor: 'end' }, chart.xName),
    text({ x: PLOT.left + 6, y: PLOT.top + 4, class: 'quiet' }, chart.yName),
    ...curves(chart, x, y),
    ...chart.series.flatMap((series, at) => series.points.map((point) => dot(point, at, x, y))),
    ...legend(chart),
  ]
  return parts.join('\n')
}

function curves({ line, theory, breakX, series }: Chart, x: Axis, y: Axis): string[] {
  const xs = series.flatMap(({ points }) => points.map((point) => point.x))
  const [from, to] = [Math.min(...xs), Math.max(...xs)]
  const parts: string[] = []
  if (theory !== undefined) parts.push(curve('theory', theory.at, from, to, x, y))
  if (line !== undefined) {
    parts.push(curve('line', line.at, from, line.upTo, x, y))
    if (line.upTo < to) parts.push(curve('line past', line.at, line.upTo, to, x, y))
  }
  if (breakX !== undefined) {
    const at = x.at(breakX)
    parts.push(path('break', [at, PLOT.top + 12], [at, HEIGHT - PLOT.bottom]))
    const label = { x: at + 4, y: HEIGHT - PLOT.bottom - 6, class: 'broken', anchor: 'start' }
    const fits = at < WIDTH - 90
    parts.push(text(fits ? label : { ...label, x: at - 4, anchor: 'end' }, 'the line ends'))
  }
  return parts
}

/** What is above or below the chart is left out. */
function curve(
  kind: string,
  of: (x: number) => number,
  from: number,
  to: number,
  x: Axis,
  y: Axis,
): string {
  const at = Array.from({ length: STEPS + 1 }, (_, step) => {
    const [left, right] = [x.at(from), x.at(to)]
    return left + ((right - left) * step) / STEPS
  })
  const places = at
    .map((left, step) => [left, y.at(of(valueBetween(x, from, to, step / STEPS)))] as const)
    .filter(([, top]) => top >= PLOT.top - 1 && top <= HEIGHT - PLOT.bottom + 1)
  return places.length < 2 ? '' : path(kind, ...places)
}

/** The value that lies so far along the way between two, as the axis shows it. */
function valueBetween(x: Axis, from: number, to: number, share: number): number {
  const middle = (from + to) / 2
  const isLinear = Math.abs(x.at(middle) - (x.at(from) + x.at(to)) / 2) < 0.01
  return isLinear ? from + (to - from) * share : from * (to / from) ** share
}

function dot({ x: left, y: top }: Point, series: number, x: Axis, y: Axis): string {
  const [cx, cy] = [round(x.at(left)), round(y.at(top))]
  return `<circle class="s${series % 4}" cx="${cx}" cy="${cy}" r="4"/>`
}

function legend({ series, theory }: Chart): string[] {
  const named = series.flatMap(({ name }, at) => (name === '' ? [] : [{ name, at }]))
  const top = PLOT.top + 20
  const left = PLOT.left + 12
  const parts = named.flatMap(({ name, at }, row) => [
    `<circle class="s${at % 4}" cx="${left}" cy="${top + row * 15}" r="4"/>`,
    text({ x: left + 10, y: top + row * 15 + 4, class: 'quiet' }, name),
  ])
  if (theory === undefined) return parts
  const y = top + named.length * 15
  return [
    ...parts,
    path('theory', [left - 6, y], [left + 6, y]),
    text({ x: left + 10, y: y + 4, class: 'quiet' }, theory.name),
  ]
}

/** From 0 (or the decade below) to a round value above. */
function axis(values: readonly number[], from: number, to: number, log: boolean): Axis {
  if (log) {
    const positive = values.filter((value) => value > 0)
    const low = Math.floor(Math.log10(Math.min(...positive)) + 1e-9)
    const high = Math.max(low + 1, Math.ceil(Math.log10(Math.max(...positive)) - 1e-9))
    const decades = Array.from({ length: high - low + 1 }, (_, at) => 10 ** (low + at))
    const at = (value: number) =>
      from + ((Math.log10(Math.max(value, 1e-12)) - low) / (high - low)) * (to - from)
    return { ticks: decades, at }
  }
  const most = Math.max(...values, 1e-9)
  const rough = most / 4
  const power = 10 ** Math.floor(Math.log10(rough))
  const step = [1, 2, 2.5, 5, 10].map((times) => times * power).find((one) => one >= rough)!
  const top = Math.ceil(most / step - 1e-9) * step
  const ticks = Array.from({ length: Math.round(top / step) + 1 }, (_, at) => at * step)
  return { ticks, at: (value) => from + (value / top) * (to - from) }
}

/** 20, 1.5 k, 300 M: short enough for an axis. */
function short(value: number): string {
  for (const [suffix, size] of [
    [' G', 1e9],
    [' M', 1e6],
    [' k', 1e3],
  ] as const) {
    if (Math.abs(value) >= size) return `${Number((value / size).toPrecision(3))}${suffix}`
  }
  return String(Number(value.toPrecision(3)))
}

function path(kind: string, ...places: readonly (readonly [number, number])[]): string {
  const d = places.map(([x, y], at) => `${at === 0 ? 'M' : 'L'}${round(x)} ${round(y)}`).join('')
  return `<path class="${kind}" d="${d}"/>`
}

function text(
  { x, y, class: kind, anchor = 'start' }: { x: number; y: number; class: string; anchor?: string },
  content: string,
): string {
  const place = `x="${round(x)}" y="${round(y)}"`
  return `<text class="${kind}" ${place} text-anchor="${anchor}">${escaped(content)}</text>`
}

function round(value: number): number {
  return Math.round(value * 10) / 10
}

function escaped(content: string): string {
  return content.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;')
}
