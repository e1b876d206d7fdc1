import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type Chart, chartsSvg } from './charts.ts'

const CHART: Chart = {
  ...{ title: 'A < B & C', subtitle: 'k = 2', xName: 'x', yName: 'y' },
  series: [
    {
      name: 'measured',
      points: [
        { x: 0, y: 1 },
        { x: 5, y: 11 },
        { x: 10, y: 14 },
      ],
    },
  ],
  line: { at: (x) => 1 + 2 * x, upTo: 5 },
  breakX: 10,
}

test('a picture is well-formed XML, whatever a title has', () => {
  const svg = chartsSvg('Q > R', 'on "this" machine', [
    CHART,
    { ...CHART, log: true },
    CHART,
    CHART,
  ])
  assert.deepEqual(openElements(svg), [])
  assert.match(svg, /A &lt; B &amp; C/)
})

test('every point has its mark, within its panel', () => {
  const svg = chartsSvg('', '', [{ ...CHART, series: [{ name: '', points: points() }] }])
  const marks = [...svg.matchAll(/<circle class="s0" cx="([\d.]+)" cy="([\d.]+)"/g)]
  assert.equal(marks.length, points().length)
  for (const [, x, y] of marks) assert.ok(Number(x) >= 62 && Number(x) <= 386 && Number(y) >= 58)
})

test('the line, its end and what theory says are drawn', () => {
  const svg = chartsSvg('', '', [{ ...CHART, theory: { name: 'theory', at: (x) => x } }])
  for (const kind of ['line', 'line past', 'break', 'theory']) {
    assert.ok(svg.includes(`<path class="${kind}" d="M`), kind)
  }
  assert.ok(!svg.includes('NaN'), 'every place is a number')
})

test('points that are all zero have a picture too', () => {
  const zero = [0, 1, 2].map((x) => ({ x, y: 0 }))
  const svg = chartsSvg('', '', [{ ...CHART, series: [{ name: '', points: zero }] }])
  assert.ok(!svg.includes('NaN') && !svg.includes('Infinity'))
})

function points() {
  return [1, 10, 100, 1_000].map((x) => ({ x, y: x * 3 }))
}

/** Elements that are never closed, or closed out of turn; throws on what is no XML at all. */
function openElements(xml: string): string[] {
  const open: string[] = []
  const tag = /<(\/?)([a-z]+)((?:\s+[\w:-]+="[^"<]*")*)\s*(\/?)>/g
  for (const [, end, name = '', , empty] of xml.matchAll(tag)) {
    if (end === '/') assert.equal(open.pop(), name)
    else if (empty !== '/') open.push(name)
  }
  const rest = xml.replace(tag, '').replaceAll(/&(?:amp|lt|gt);/g, '')
  assert.ok(!/[<&]/.test(rest), `not XML: ${/.{0,40}[<&].{0,40}/.exec(rest)?.[0]}`)
  return open
}
