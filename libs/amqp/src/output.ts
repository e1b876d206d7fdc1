/**
 * What goes out on one socket: frames are laid into slabs as they come up, and everything of one
 * event-loop turn leaves in one gathered write.
 *
 * Hot path. Slabs come from a shared store and go back once the kernel has their bytes, so an idle
 * connection holds none and a busy one allocates nothing. Large bodies are not copied: the write
 * gathers them from where they lie.
 *
 * The output does not refuse: who feeds it asks `writable` first, and is called when that becomes
 * true again. Measured by test/bench/frame-writer.bench.ts.
 */
import type { Duplex } from 'node:stream'

/** Bytes of a slab; `reserve` gives at most this many. */
export const SLAB_BYTES = 32 * 1024
/** Slabs kept for reuse by all connections of the process: 16 MiB. */
const SLABS_KEPT_MAX = 512
/** A flush of fewer bytes is copied out of its slab, which thereby stays free for the next. */
const SMALL_FLUSH_BYTES = 2048
/** `writable` turns false at the first mark and true again at the second. */
export const OUTPUT_HIGH_BYTES = 256 * 1024
const OUTPUT_LOW_BYTES = 128 * 1024

/** Told when a turn ends, before its frames leave: what it writes leaves with them. */
export interface TurnEnd {
  turnEnds(): void
}

const NO_SLAB = Buffer.alloc(0)
const freeSlabs: Buffer[] = []
let dirty: Output[] = []

function flushDirty(): void {
  const outputs = dirty
  dirty = []
  for (const output of outputs) output.endTurn()
}

export class Output {
  readonly #socket: Duplex
  readonly #onWritable: () => void
  /** Where `reserve` made room. */
  slab: Buffer = NO_SLAB
  /** End of what was written into the slab; whoever writes moves it on. */
  at = 0
  /** Where in the slab begins what no chunk holds yet. */
  #from = 0
  #chunks: Buffer[] = []
  #chunksSize = 0
  #fullSlabs: Buffer[] = []
  #turnEnds: TurnEnd[] = []
  #scheduled = false
  #blocked = false
  #closed = false
  #flushes = 0
  #taken = 0

  /** @param onWritable called when `writable` becomes true again. */
  constructor(socket: Duplex, onWritable: () => void) {
    this.#socket = socket
    this.#onWritable = onWritable
  }

  /** Bytes that the kernel has not taken yet. */
  get pending(): number {
    return this.#chunksSize + this.at - this.#from + this.#socket.writableLength
  }

  /** False while so much is pending that more should wait. */
  get writable(): boolean {
    if (this.#blocked || this.pending < OUTPUT_HIGH_BYTES) return !this.#blocked
    this.#blocked = true
    return false
  }

  /** Once closed, what is written is dropped. */
  get closed(): boolean {
    return this.#closed
  }

  /** Writes so far: a heartbeat is due when it stands still. */
  get flushes(): number {
    return this.#flushes
  }

  /** Writes that the kernel has taken whole so far: it stands still when nobody reads them. */
  get taken(): number {
    return this.#taken
  }

  /** Makes room for `size` bytes in `slab`, and returns where it begins (`at`). */
  reserve(size: number): number {
    if (!this.#scheduled) this.#schedule()
    if (this.slab.length - this.at < size) this.#nextSlab()
    return this.at
  }

  /** Adds bytes without copying them; they must not change until they are sent. */
  push(bytes: Buffer): void {
    if (!this.#scheduled) this.#schedule()
    this.#seal()
    this.#chunks.push(bytes)
    this.#chunksSize += bytes.length
  }

  /** Calls `party` once, at the end of this turn. */
  atTurnEnd(party: TurnEnd): void {
    if (!this.#scheduled) this.#schedule()
    this.#turnEnds.push(party)
  }

  /** Ends the turn: whoever asked writes its last, then everything is sent. */
  endTurn(): void {
    if (this.#turnEnds.length > 0) {
      const parties = this.#turnEnds
      this.#turnEnds = []
      for (const party of parties) party.turnEnds()
    }
    this.#scheduled = false
    this.flush()
  }

  /** Sends what there is, without waiting for the turn's end. */
  flush(): void {
    if (this.#closed) {
      this.#drop()
      return
    }
    const slab = this.slab
    if (this.#chunks.length === 0 && this.at - this.#from <= SMALL_FLUSH_BYTES) {
      if (this.at === this.#from) return
      // Slabs go round at once, and Buffer's own pool serves the copy.
      const copy = Buffer.from(slab.subarray(this.#from, this.at))
      this.#release(slab)
      this.#write([copy], [])
    } else {
      this.#seal()
      const slabs = this.#fullSlabs
      if (slab.length > 0) slabs.push(slab)
      const chunks = this.#chunks
      this.#chunks = []
      this.#chunksSize = 0
      this.#fullSlabs = []
      this.#write(chunks, slabs)
    }
    this.slab = NO_SLAB
    this.at = 0
    this.#from = 0
  }

  /** Sends what there is, then FIN. */
  end(): void {
    if (this.#closed) return
    this.endTurn()
    this.#closed = true
    this.#socket.end()
  }

  /** Drops what there is and whatever is still written. */
  close(): void {
    this.#closed = true
    this.#drop()
  }

  #write(chunks: readonly Buffer[], slabs: readonly Buffer[]): void {
    const socket = this.#socket
    const last = chunks.length - 1
    this.#flushes++
    if (last > 0) socket.cork()
    for (let i = 0; i < last; i++) socket.write(chunks[i])
    socket.write(chunks[last], () => {
      this.#taken++
      for (const slab of slabs) this.#release(slab)
      if (this.#blocked && !this.#closed && this.pending <= OUTPUT_LOW_BYTES) {
        this.#blocked = false
        this.#onWritable()
      }
    })
    if (last > 0) socket.uncork()
  }

  #schedule(): void {
    this.#scheduled = true
    if (dirty.push(this) === 1) setImmediate(flushDirty)
  }

  /** Turns what the slab holds into a chunk. */
  #seal(): void {
    if (this.at === this.#from) return
    this.#chunks.push(this.slab.subarray(this.#from, this.at))
    this.#chunksSize += this.at - this.#from
    this.#from = this.at
  }

  #nextSlab(): void {
    this.#seal()
    if (this.slab.length > 0) this.#fullSlabs.push(this.slab)
    this.slab = freeSlabs.pop() ?? Buffer.allocUnsafeSlow(SLAB_BYTES)
    this.at = 0
    this.#from = 0
  }

  #release(slab: Buffer): void {
    if (freeSlabs.length < SLABS_KEPT_MAX) freeSlabs.push(slab)
  }

  #drop(): void {
    for (const slab of this.#fullSlabs) this.#release(slab)
    if (this.slab.length > 0) this.#release(this.slab)
    this.slab = NO_SLAB
    this.at = 0
    this.#from = 0
    this.#chunks = []
    this.#chunksSize = 0
    this.#fullSlabs = []
  }
}
