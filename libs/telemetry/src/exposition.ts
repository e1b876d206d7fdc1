/** Metrics as they are read: families of series, and Prometheus's text of them. */
import { Histogram } from './histogram.ts'

export interface Series {
  readonly labels: Readonly<Record<string, string>>
  readonly value: number | Histogram
}

export interface Family {
  readonly name: string
  readonly kind: 'counter' | 'gauge' | 'histogram'
  readonly doc: string
  readonly series: readonly Series[]
}

/** The text format, version 0.0.4. Families without a series are left out. */
export function renderText(families: readonly Family[]): string {
  const lines: string[] = []
  for (const { name, kind, doc, series } of families) {
    if (series.length === 0) continue
    lines.push(`# HELP ${name} ${doc.replaceAll('\\', '\\\\').replaceAll('\n', '\\n')}`)
    lines.push(`# TYPE ${name} ${kind}`)
    for (const { labels, value } of series) {
      if (value instanceof Histogram) pushHistogram(lines, name, labels, value)
      else lines.push(`${name}${renderLabels(labels)} ${numberText(value)}`)
    }
  }
  lines.push('')
  return lines.join('\n')
}

function pushHistogram(
  lines: string[],
  name: string,
  labels: Readonly<Record<string, string>>,
  histogram: Histogram,
): void {
  let count = 0
  histogram.counts.forEach((bucket, index) => {
    count += bucket
    const le = numberText(histogram.bounds[index] ?? Number.POSITIVE_INFINITY)
    lines.push(`${name}_bucket${renderLabels({ ...labels, le })} ${count}`)
  })
  lines.push(`${name}_sum${renderLabels(labels)} ${histogram.sum}`)
  lines.push(`${name}_count${renderLabels(labels)} ${count}`)
}

function renderLabels(labels: Readonly<Record<string, string>>): string {
  const pairs = Object.entries(labels).map(([label, value]) => `${label}="${escapeLabel(value)}"`)
  return pairs.length === 0 ? '' : `{${pairs.join(',')}}`
}

function escapeLabel(value: string): string {
  return value
    .toWellFormed()
    .replaceAll('\\', '\\\\')
    .replaceAll('"', '\\"')
    .replaceAll('\n', '\\n')
}

function numberText(value: number): string {
  if (value === Number.POSITIVE_INFINITY) return '+Inf'
  return value === Number.NEGATIVE_INFINITY ? '-Inf' : String(value)
}
