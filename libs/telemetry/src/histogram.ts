/**
 * How values are distributed over fixed buckets.
 *
 * Hot path: observing is a few comparisons and additions, and allocates nothing.
 */
export class Histogram {
  /** Upper bounds, ascending; what lies above the last one is in a bucket of its own. */
  readonly bounds: readonly number[]
  /** Values in each bucket, one more than bounds. */
  readonly counts: number[]
  sum = 0

  constructor(bounds: readonly number[]) {
    this.bounds = bounds
    this.counts = new Array<number>(bounds.length + 1).fill(0)
  }

  observe(value: number): void {
    const { bounds, counts } = this
    let at = 0
    while (at < bounds.length && value > bounds[at]!) at++
    counts[at]!++
    this.sum += value
  }

  get count(): number {
    return this.counts.reduce((sum, count) => sum + count, 0)
  }
}
