/**
 * What a command says: results to standard output, as a table or as JSON; everything else to
 * standard error, progress only where that is a terminal.
 */
import { createReadStream } from 'node:fs'
import type { Readable } from 'node:stream'

/** Streams of a process. */
export type Streams = Pick<NodeJS.Process, 'stdin' | 'stdout' | 'stderr'>

const CLEAR_LINE = '\r\u001B[2K'
/** Progress is written at most this often, ms. */
const PROGRESS_MS = 100

export class Terminal {
  readonly streams: Streams
  #shown = false
  #lastMs = 0

  constructor(streams: Streams) {
    this.streams = streams
    // Whoever reads may have enough, as `head` has: then so have we.
    streams.stdout.on('error', this.#gone)
  }

  readonly #gone = (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(0)
  }

  /** Somebody watches. */
  get live(): boolean {
    return this.streams.stderr.isTTY === true
  }

  /** A file, or standard input where it is `-` or none. */
  read(file = '-'): Readable {
    if (file !== '-') return createReadStream(file)
    const { stdin } = this.streams
    if (stdin.isTTY) this.note('reads what you type; Ctrl-D ends it')
    return stdin
  }

  /** A result: each value a line of JSON, or as text. */
  print(value: unknown, { json, text }: { json: boolean; text?: () => string }): void {
    this.#clear()
    const line = json || text === undefined ? JSON.stringify(value) : text()
    if (line !== '') this.streams.stdout.write(`${line}\n`)
  }

  /** Bytes as they are. */
  write(bytes: string | Uint8Array): void {
    this.streams.stdout.write(bytes)
  }

  /** For whoever watches; the last one stands. */
  progress(line: () => string, { force = false } = {}): void {
    const now = performance.now()
    if (!this.live || (!force && now - this.#lastMs < PROGRESS_MS)) return
    this.#lastMs = now
    this.#shown = true
    this.streams.stderr.write(`${CLEAR_LINE}${line()}`)
  }

  /** Something worth knowing that is no result. */
  note(text: string): void {
    this.#clear()
    this.streams.stderr.write(`sluice: ${text}\n`)
  }

  fail(error: unknown): void {
    const known = error instanceof Error
    const code =
      known && 'code' in error && typeof error.code === 'string' ? ` (${error.code})` : ''
    this.note(`${known ? error.message : String(error)}${code}`)
  }

  close(): void {
    if (this.#shown) this.streams.stderr.write('\n')
    this.#shown = false
    this.streams.stdout.off('error', this.#gone)
  }

  #clear(): void {
    if (this.#shown) this.streams.stderr.write(CLEAR_LINE)
    this.#shown = false
  }
}

/** Rows under headings, columns as wide as they need be; numbers to the right. */
export function table(headings: readonly string[], rows: readonly (readonly unknown[])[]): string {
  const cells = [headings, ...rows.map((row) => row.map((cell) => String(cell ?? '')))]
  const widths = headings.map((_, at) => Math.max(...cells.map((row) => row[at]!.length)))
  const right = headings.map((_, at) => rows.length > 0 && rows.every((row) => isNumber(row[at])))
  return cells
    .map((row) =>
      row
        .map((cell, at) => (right[at] ? cell.padStart(widths[at]!) : cell.padEnd(widths[at]!)))
        .join('  ')
        .trimEnd(),
    )
    .join('\n')
}

const isNumber = (cell: unknown) =>
  typeof cell === 'number' || (typeof cell === 'string' && /^-?[\d ,.]+(?: ?\S{1,3})?$/.test(cell))

/** 1 234 567 */
export const grouped = (count: number): string =>
  String(Math.round(count)).replace(/\B(?=(\d{3})+$)/g, ' ')

/** 12 s, 3.4 min, 5 h */
export function duration(ms: number): string {
  if (ms < 1_000) return `${Math.round(ms)} ms`
  for (const [unit, size] of [
    ['s', 1_000],
    ['min', 60_000],
    ['h', 3_600_000],
  ] as const) {
    const amount = ms / size
    if (amount < 100) return `${amount < 10 ? amount.toFixed(1) : Math.round(amount)} ${unit}`
  }
  return `${Math.round(ms / 86_400_000)} d`
}
