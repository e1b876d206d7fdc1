/**
 * A line through measured points, and where they leave it. Pure.
 *
 * The line is that of ordinary least squares. It ends where its own forecast fails: each point is
 * held against the line through the points before it (the recursive residuals of Brown, Durbin and
 * Evans, 1975), and the first one from which on all are off to the same side by more than 15 % is
 * the break. A single point is none: it takes two to tell an end from an outlier, and points that
 * were no line before cannot leave one.
 */
import assert from 'node:assert/strict'

export interface Point {
  readonly x: number
  readonly y: number
}

export interface Line {
  /** The coefficient: what one more of x costs. */
  readonly slope: number
  readonly intercept: number
  /** Standard error of the slope; 0 with two points, through which every line is exact. */
  readonly slopeError: number
  /** Share of the variance of y that the line explains, 0 to 1. */
  readonly r2: number
  /** How many points it goes through, the first ones. */
  readonly points: number
}

export interface Fit extends Line {
  /** The first point past the line's end, with what the line says instead; undefined = no end. */
  readonly breakAt: (Point & { readonly expected: number }) | undefined
}

/** A reader who trusts the line should not be off by more. */
const TOLERANCE = 0.15
/** A line through fewer forecasts nothing, nor one that explains less of its own points. */
const POINTS_MIN = 3
const R2_MIN = 0.95
/** Points past an end. */
const PAST_MIN = 2

/** The line of least squares. Throws with fewer than two different x. */
export function fitLine(points: readonly Point[]): Line {
  const count = points.length
  const meanX = mean(points.map(({ x }) => x))
  const meanY = mean(points.map(({ y }) => y))
  const xx = sum(points.map(({ x }) => (x - meanX) ** 2))
  const xy = sum(points.map(({ x, y }) => (x - meanX) * (y - meanY)))
  const yy = sum(points.map(({ y }) => (y - meanY) ** 2))
  assert(xx > 0, 'a line needs two different x')
  const slope = xy / xx
  const intercept = meanY - slope * meanX
  const residual = sum(points.map(({ x, y }) => (y - intercept - slope * x) ** 2))
  return {
    slope,
    intercept,
    slopeError: count > 2 ? Math.sqrt(residual / (count - 2) / xx) : 0,
    r2: yy === 0 ? 1 : Math.max(0, 1 - residual / yy),
    points: count,
  }
}

/** The line through the points up to where they leave it. They are in the order of x. */
export function fitToBreak(points: readonly Point[]): Fit {
  for (let at = POINTS_MIN; at <= points.length - PAST_MIN; at++) {
    const line = fitLine(points.slice(0, at))
    if (line.r2 < R2_MIN) continue
    const sides = new Set(points.slice(at).map((point) => side(line, point)))
    const next = points[at]!
    if (sides.size === 1 && !sides.has(0)) {
      return { ...line, breakAt: { ...next, expected: valueAt(line, next.x) } }
    }
  }
  return { ...fitLine(points), breakAt: undefined }
}

export function valueAt(
  { slope, intercept }: Pick<Line, 'slope' | 'intercept'>,
  x: number,
): number {
  return intercept + slope * x
}

/** 1 above the line by more than the tolerance, -1 below it, 0 within. */
function side(line: Line, { x, y }: Point): number {
  const expected = valueAt(line, x)
  const off = y - expected
  return Math.abs(off) > TOLERANCE * Math.abs(expected) ? Math.sign(off) : 0
}

function mean(values: readonly number[]): number {
  return sum(values) / values.length
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0)
}
