/** A report as charts and as text. */
import { type Chart, chartsSvg } from './charts.ts'
import { type Fit, type Line, type Point, valueAt } from './fit.ts'
import type { Answer, Question } from './model.ts'
import { type Arrangement, type Order, overallOf } from './order.ts'
import { redeliveries } from './redelivery.ts'
import { figure, type Report, usedUp } from './report.ts'

export function svgOf(report: Report): string {
  const { storage, confirmation, redelivery, order } = report
  const usual = redelivery.points.filter(({ deliveriesMax }) => deliveriesMax > 10)
  const few = redelivery.points.filter(({ deliveriesMax }) => deliveriesMax <= 10)
  const charts: Chart[] = [
    {
      ...through('Storage time: T = k x N', storage.times, storage.timeFit, 'ms a message'),
      ...{ xName: 'messages', yName: 'ms', log: true },
    },
    {
      ...through(
        'Confirmation: t = k x M',
        confirmation.times,
        confirmation.timeFit,
        'ms a consumer',
      ),
      ...{ xName: 'consumers without work', yName: 'ms to confirm' },
    },
    {
      ...through('Redeliveries: R = k x P', redeliveries(usual), redelivery.fit, ''),
      ...{ xName: 'P, share of deliveries that fail', yName: 'redeliveries a message' },
      series: [
        { name: `at most ${usual[0]?.deliveriesMax} deliveries`, points: redeliveries(usual) },
        { name: `at most ${few[0]?.deliveriesMax} deliveries`, points: redeliveries(few) },
      ],
      theory: { name: 'P / (1 - P)', at: (p) => p / (1 - p) },
    },
    {
      ...through('Memory: bytes = k x N', storage.bytes, storage.bytesFit, 'bytes a message'),
      ...{ xName: 'messages of 256 bytes', yName: 'bytes in Redis', log: true },
    },
    {
      ...through('Rate: k x M', confirmation.rates, confirmation.rateFit, '/s a consumer'),
      ...{ xName: 'consumers that work for 10 ms', yName: 'deliveries a second', log: true },
    },
    {
      ...through(
        'Disorder: k x (Q - 1)',
        overallOf(order.points, 'one queue'),
        order.workersFit,
        '',
      ),
      ...{ xName: 'queues or workers besides the first', yName: 'inversions a message' },
      series: [
        { name: 'one queue, Q workers', points: overallOf(order.points, 'one queue') },
        { name: 'Q queues in turn', points: overallOf(order.points, 'queues in turn') },
        { name: 'ordering key: within a key', points: withinKey(order, 'ordering key') },
      ],
    },
  ]
  const about = `${report.machine}; appendfsync ${report.fsync}; ${report.measuredAt.slice(0, 10)}`
  return chartsSvg('Capacity of Sluice, measured', about, charts)
}

function withinKey({ points }: Order, of: Arrangement): Point[] {
  return points
    .filter(({ arrangement }) => arrangement === of)
    .map((point) => ({ x: point.queues - 1, y: point.withinKey }))
}

function through(title: string, points: readonly Point[], fit: Fit, unit: string) {
  return {
    title,
    subtitle: lineText(fit, unit),
    series: [{ name: '', points }],
    line: { at: (x: number) => valueAt(fit, x), upTo: points[fit.points - 1]!.x },
    breakX: fit.breakAt?.x,
  }
}

function lineText({ slope, slopeError, intercept, r2 }: Line, unit: string): string {
  const k = `k = ${figure(slope)} ± ${figure(slopeError)}${unit === '' ? '' : ` ${unit}`}`
  return `${k}, at 0: ${figure(intercept)}, R² = ${r2.toFixed(4)}`
}

/** For people: a line with what it is, its coefficient, and its end. */
export function textOf(report: Report): string {
  const { findings, order, check } = report
  const width = Math.max(...findings.map(({ formula }) => formula.length))
  const lines = findings.flatMap(({ name, formula, unit, line, ends }) => [
    `${formula.padEnd(width)}  ${name}: ${lineText(line, unit)}`,
    `${' '.repeat(width)}  ${ends === '' ? 'a line as far as measured' : `ends ${ends}`}`,
  ])
  const last = order.points.at(-1)!
  const kept = order.points
    .filter(({ queues }) => queues === last.queues)
    .map(({ arrangement, withinKey }) => `${arrangement} ${figure(withinKey)}`)
  const percent = (share: number) => `${share >= 0 ? '+' : ''}${(share * 100).toFixed(1)} %`
  return [
    `${report.machine}; appendfsync ${report.fsync}${report.short ? '; a short run: rough' : ''}`,
    '',
    ...lines,
    '',
    `Inversions within a key, ${last.queues} queues or workers: ${kept.join(', ')}`,
    '',
    'The model, in a case that no line was fitted to:',
    questionText(check.question),
    `  said ${figure(check.expected.messagesPerSecond)}/s, measured ` +
      `${figure(check.measured.messagesPerSecond)}/s: ${percent(check.error.rate)}; deliveries ` +
      `${percent(check.error.deliveries)}; delay ${percent(check.error.delay)}; memory ${percent(check.error.memory)}`,
    `  meanwhile: ${usedUp(check.evidence)}`,
  ].join('\n')
}

function questionText({ messages, consumers, errors, workMs, bodyBytes }: Question): string {
  return (
    `  ${figure(messages)} messages of ${bodyBytes} bytes, ${consumers} consumers that work for ` +
    `${workMs} ms, ${figure(errors * 100)} % of deliveries fail`
  )
}

export function answerText(question: Question, said: Answer): string {
  const dead = said.deadLetters * question.messages
  const rows = [
    ['rate', `${figure(said.messagesPerSecond)} messages a second, limited by the ${said.limit}`],
    [
      'deliveries',
      `${figure(said.deliveriesPerSecond)}/s, ${figure(said.deliveriesPerMessage)} a message`,
    ],
    ['delay', `${time(said.meanDelayMs)} on average, ${time(said.drainMs)} until the last is done`],
    ['retries', `${time(said.backOffMs)} besides on average, with a back-off that nobody set`],
    ['dead letters', dead < 0.5 ? 'none' : `${figure(dead)} messages`],
    ['memory', `${figure(said.memoryBytes / 1e6)} MB of Redis`],
    ['storing', `${time(said.storeMs)} in batches`],
  ] as const
  return [questionText(question), ...rows.map(([name, is]) => `${name.padEnd(14)}${is}`)].join('\n')
}

function time(ms: number): string {
  if (ms < 1_000) return `${figure(ms)} ms`
  if (ms < 120_000) return `${figure(ms / 1_000)} s`
  return ms < 7_200_000 ? `${figure(ms / 60_000)} min` : `${figure(ms / 3_600_000)} h`
}
