import assert from 'node:assert/strict'
import { test } from 'node:test'
import { fitLine, fitToBreak, type Point } from './fit.ts'

/** Norris, of NIST's Statistical Reference Datasets: certified values to 15 digits. */
const NORRIS = `
0.1 0.2, 338.8 337.4, 118.1 118.2, 888.0 884.6, 9.2 10.1, 228.1 226.5, 668.5 666.3, 998.5 996.3,
449.1 448.6, 778.9 777.0, 559.2 558.2, 0.3 0.4, 0.1 0.6, 778.1 775.5, 668.8 666.9, 339.3 338.0,
448.9 447.5, 10.8 11.6, 557.7 556.0, 228.3 228.1, 998.0 995.8, 888.8 887.6, 119.6 120.2, 0.3 0.3,
0.6 0.3, 557.6 556.8, 339.3 339.1, 888.0 887.2, 998.5 999.0, 778.9 779.0, 10.2 11.1, 117.6 118.3,
228.9 229.2, 668.4 669.1, 449.2 448.9, 0.2 0.5`

test('a line is that of the certified data', () => {
  const pairs = NORRIS.trim().split(/,\s*/)
  const points = pairs.map((pair) => {
    const [y, x] = pair.split(' ').map(Number)
    return { x: x!, y: y! }
  })
  const line = fitLine(points)
  near(line.slope, 1.00211681802045)
  near(line.intercept, -0.262323073774029)
  near(line.slopeError, 0.000429796848199937)
  near(line.r2, 0.999993745883712)
})

test('a line through two points is exact, and has no error to tell of', () => {
  const line = fitLine([at(1, 5), at(3, 9)])
  assert.deepEqual(line, { slope: 2, intercept: 3, slopeError: 0, r2: 1, points: 2 })
})

test('with errors as shares, points of every size count alike', () => {
  const points = [at(1, 11), at(10, 91), at(100, 1_010), at(1_000, 9_900)]
  const { slope, intercept } = fitLine(points, 'shares')
  const worst = Math.max(...points.map(({ x, y }) => Math.abs((intercept + slope * x) / y - 1)))
  assert.ok(worst < 0.08, `off by ${worst}`)
  const exact = fitLine([at(1, 5), at(10, 23), at(100, 203)], 'shares')
  near(exact.slope, 2)
  near(exact.intercept, 3)
})

test('points that all have the same x have no line', () => {
  assert.throws(() => fitLine([at(1, 5), at(1, 9)]), /two different x/)
})

test('what is a line throughout has no end', () => {
  const fit = fitToBreak([1, 2, 4, 8, 16].map((x) => at(x, 3 + 2 * x)))
  assert.equal(fit.breakAt, undefined)
  assert.equal(fit.points, 5)
})

test('a line ends at the first point from which on all are below it', () => {
  const fit = fitToBreak([1, 2, 4, 8, 16, 32].map((x) => at(x, Math.min(10 * x, 90))))
  assert.deepEqual(fit.breakAt, { x: 16, y: 90, expected: 160 })
  assert.equal(fit.points, 4)
  near(fit.slope, 10)
})

test('one point that is off is no end of the line', () => {
  const fit = fitToBreak([at(1, 1), at(2, 2), at(3, 3), at(4, 8), at(5, 5.5), at(6, 6.5)])
  assert.equal(fit.breakAt, undefined)
  assert.equal(fitToBreak([at(1, 1), at(2, 2), at(3, 3), at(4, 8)]).breakAt, undefined)
})

function at(x: number, y: number): Point {
  return { x, y }
}

function near(value: number, expected: number): void {
  assert.ok(Math.abs(value / expected - 1) < 1e-9, `${value} is not ${expected}`)
}
