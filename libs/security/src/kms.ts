/**
 * A KMS behind an HTTP hook, of which this asks two things:
 *
 *   POST <url>/wrap    {"plaintext": base64, "context": text}  ->  200 {"wrapped": text}
 *   POST <url>/unwrap  {"wrapped": text, "context": text}      ->  200 {"plaintext": base64}
 *
 * What was wrapped for one context must not open for another; 400, 403 and 404 say that this is so,
 * any other answer that the KMS is not well. A data key is unwrapped once a process.
 */
import type { KeyEncryptionKey, Wrapped } from './key-encryption.ts'

const TIMEOUT_MS = 5_000
/** Of an answer, and of what is kept of a wrapped key. */
const ANSWER_BYTES_MAX = 16 * 1024
/** The answers that mean: I did not wrap this. */
const NOT_MINE: ReadonlySet<number> = new Set([400, 403, 404])

export class Kms implements KeyEncryptionKey {
  readonly id = 'kms'
  readonly #url: string
  readonly #token: string | undefined

  /** @param token sent as bearer. */
  constructor(url: string, token: string | undefined) {
    this.#url = url.replace(/\/+$/, '')
    this.#token = token
  }

  async wrap(material: Buffer, context: string): Promise<Wrapped> {
    const asked = { plaintext: material.toString('base64'), context }
    const { wrapped } = (await this.#ask('wrap', asked)) ?? {}
    if (typeof wrapped !== 'string' || wrapped === '') throw new Error('the KMS wrapped nothing')
    return { kek: this.id, wrapped }
  }

  async unwrap(wrapped: string, context: string): Promise<Buffer | undefined> {
    const answer = await this.#ask('unwrap', { wrapped, context })
    if (answer === undefined) return undefined
    const { plaintext } = answer
    if (typeof plaintext !== 'string') throw new Error('the KMS answered without a plaintext')
    return Buffer.from(plaintext, 'base64')
  }

  /** undefined: the KMS did not wrap this. */
  async #ask(what: 'wrap' | 'unwrap', body: object): Promise<Record<string, unknown> | undefined> {
    const response = await fetch(`${this.#url}/${what}`, {
      method: 'POST',
      headers: {
        'content-type': 'application/json',
        ...(this.#token !== undefined && { authorization: `Bearer ${this.#token}` }),
      },
      body: JSON.stringify(body),
      redirect: 'error',
      signal: AbortSignal.timeout(TIMEOUT_MS),
    })
    const text = await readText(response)
    if (what === 'unwrap' && NOT_MINE.has(response.status)) return undefined
    if (response.status !== 200) throw new Error(`the KMS answered ${response.status}`)
    return parseObject(text)
  }
}

async function readText(response: Response): Promise<string> {
  const chunks: Uint8Array[] = []
  let size = 0
  for await (const chunk of response.body ?? []) {
    size += chunk.length
    if (size > ANSWER_BYTES_MAX) throw new Error('the KMS answered with too much')
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString()
}

/** No error of JSON.parse gets out: it quotes what it read. */
function parseObject(text: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(text)
    if (typeof value === 'object' && value !== null) return value as Record<string, unknown>
  } catch {}
  throw new Error('the KMS answered with something else than a JSON object')
}
