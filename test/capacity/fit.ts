/**
 * A line through measured points, and where they leave it. Pure.
 *
 * The line is that of least squares; where x spans decades, of the errors as shares of y (weights
 * of 1/y²), else the largest points alone would decide. It ends where its own forecast fails: each
 * point is held against the line through the points before it (the recursive residuals of Brown,
 * Durbin and Evans, 1975), and the first one from which on all are off to the same side by more
 * than 15 % is the break. A single point is none: it takes two to tell an end from an outlier, and
 * points that were no line before cannot leave one.
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

/** Which errors are made least: those of y as they are, or as shares of y, which is above 0. */
type Scale = 'absolute' | 'shares'

/** A reader who trusts the line should not be off by more. */
const TOLERANCE = 0.15
/** A line through fewer forecasts nothing, nor one that explains less of its own points. */
const POINTS_MIN = 3
const R2_MIN = 0.95
/** Points past an end. */
const PAST_MIN = 2

/** The line of least squares. Throws with fewer than two different x. */
export function fitLine(points: readonly Point[], scale: Scale = 'absolute'): Line {
  const weights = points.map(({ y }) => (scale === 'shares' ? 1 / y ** 2 : 1))
  const mean = (of: (point: Point) => number) => {
    const total = sum(points.map((point, at) => weights[at]! * of(point)))
    return total / sum(weights)
  }
  const [meanX, meanY] = [mean(({ x }) => x), mean(({ y }) => y)]
  const xx = mean(({ x }) => (x - meanX) ** 2)
  const yy = mean(({ y }) => (y - meanY) ** 2)
  assert(xx > 0, 'a line needs two different x')
  const slope = mean(({ x, y }) => (x - meanX) * (y - meanY)) / xx
  const intercept = meanY - slope * meanX
  const residual = mean(({ x, y }) => (y - intercept - slope * x) ** 2)
  const free = points.length - 2
  return {
    ...{ slope, intercept, points: points.length },
    slopeError: free > 0 ? Math.sqrt(residual / free / xx) : 0,
    r2: yy === 0 ? 1 : Math.max(0, 1 - residual / yy),
  }
}

/** The line through the points up to where they leave it. They are in the order of x. */
export function fitToBreak(points: readonly Point[], scale: Scale = 'absolute'): Fit {
  for (let at = POINTS_MIN; at <= points.length - PAST_MIN; at++) {
    const line = fitLine(points.slice(0, at), scale)
    if (line.r2 < R2_MIN) continue
    const sides = new Set(points.slice(at).map((point) => side(line, point)))
    const next = points[at]!
    if (sides.size === 1 && !sides.has(0)) {
      return { ...line, breakAt: { ...next, expected: valueAt(line, next.x) } }
    }
  }
  return { ...fitLine(points, scale), breakAt: undefined }
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

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0)
}
