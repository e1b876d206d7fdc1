/** The shop whose customers all order at once, and which notes what it was told of every order. */

export interface Order {
  /** Where its outcome will be. */
  readonly location: string
  /** From the first try to 202, ms. */
  readonly tookMs: number
}

export class Shop {
  readonly #url: string
  readonly accepted = new Map<number, Order>()
  /** Answers that said `later`: 429 or 503. Each was tried again when it said. */
  putOff = 0
  readonly #customers = 16

  /** @param url where orders go. */
  constructor(url: string) {
    this.#url = url
  }

  /** Orders 1..count, as fast as they go. Rejects at an answer that is neither yes nor later. */
  async rush(count: number, signal: AbortSignal): Promise<void> {
    let next = 1
    const customer = async () => {
      while (next <= count) await this.#order(next++, signal)
    }
    await Promise.all(Array.from({ length: this.#customers }, customer))
  }

  async #order(order: number, signal: AbortSignal): Promise<void> {
    const fromMs = performance.now()
    for (;;) {
      const response = await fetch(this.#url, {
        method: 'POST',
        headers: { 'Content-Type': 'application/json', 'Idempotency-Key': `order-${order}` },
        body: JSON.stringify({ order }),
        signal,
      })
      const text = await response.text()
      if (response.status === 202) {
        const location = response.headers.get('location') ?? ''
        this.accepted.set(order, { location, tookMs: performance.now() - fromMs })
        return
      }
      if (response.status !== 429 && response.status !== 503) {
        throw new Error(`order ${order} was answered ${response.status}: ${text}`)
      }
      this.putOff++
      const seconds = Number(response.headers.get('retry-after') ?? 1)
      await new Promise((resolve) => setTimeout(resolve, seconds * 1_000))
      signal.throwIfAborted()
    }
  }
}

/** How many of `count` orders get a yes when they go to the backend themselves, all at once. */
export async function withoutBroker(url: string, count: number): Promise<number> {
  const one = async (order: number) => {
    const body = JSON.stringify({ order })
    const response = await fetch(url, { method: 'POST', body })
    await response.text()
    return response.ok
  }
  const answers = await Promise.all(Array.from({ length: count }, (_, i) => one(i + 1)))
  return answers.filter(Boolean).length
}
