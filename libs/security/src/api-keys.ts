/**
 * API keys: `sluice_<id>_<secret>`, shown once. The id finds the document, which holds a hash of the
 * secret; the prefix lets scanners of source code recognise a key that was leaked.
 */
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto'
import type { ApiKeyDocument } from './documents.ts'

const ID_BYTES = 8
/** 256 bits cannot be guessed, so that a fast hash keeps them. */
const SECRET_BYTES = 32
const FORM = /^sluice_([0-9a-f]{16})_([\w-]{43})$/

interface NewApiKey {
  readonly id: string
  /** What its user is given; nobody can make it again. */
  readonly key: string
  readonly hash: string
}

export function newApiKey(): NewApiKey {
  const id = randomBytes(ID_BYTES).toString('hex')
  const secret = randomBytes(SECRET_BYTES).toString('base64url')
  return { id, key: `sluice_${id}_${secret}`, hash: hashSecret(secret) }
}

/** The parts of what may be a key; undefined for what has not the form of one. */
export function readApiKey(text: string): { id: string; secret: string } | undefined {
  const [, id, secret] = FORM.exec(text) ?? []
  return id === undefined || secret === undefined ? undefined : { id, secret }
}

export function provesApiKey({ hash }: Pick<ApiKeyDocument, 'hash'>, secret: string): boolean {
  const given = Buffer.from(hashSecret(secret))
  const expected = Buffer.from(hash)
  return given.length === expected.length && timingSafeEqual(given, expected)
}

const hashSecret = (secret: string) => createHash('sha256').update(secret).digest('base64url')
