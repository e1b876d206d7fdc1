/**
 * Adds headers to a message's properties without decoding them: what the publisher sent stays as it
 * was, byte for byte.
 *
 * Hot path where traces are on: one allocation.
 */
import { limits } from '@sluice/core'

const HAS_CONTENT_TYPE = 0x8000
const HAS_CONTENT_ENCODING = 0x4000
const HAS_HEADERS = 0x2000
const LONG_STRING = 0x53

/**
 * Properties in their wire form with these headers at the end of the table; the names must be new.
 * The same bytes come back when that would make them too long, or when they cannot be read.
 */
export function addHeaders(
  properties: Buffer,
  headers: Readonly<Record<string, string | undefined>>,
): Buffer {
  let entriesSize = 0
  for (const name in headers) {
    const value = headers[name]
    if (value !== undefined) entriesSize += 6 + Buffer.byteLength(name) + Buffer.byteLength(value)
  }
  const at = headersAt(properties)
  if (at < 0 || entriesSize === 0) return properties
  const flags = properties.readUInt16BE(0)
  const hasHeaders = (flags & HAS_HEADERS) !== 0
  const tableSize = hasHeaders ? properties.readUInt32BE(at) : 0
  const tableEnd = at + (hasHeaders ? 4 + tableSize : 0)
  const size = properties.length + (hasHeaders ? 0 : 4) + entriesSize
  if (tableEnd > properties.length || size > limits.PROPERTIES_BYTES_MAX) return properties

  const bytes = Buffer.allocUnsafe(size)
  properties.copy(bytes, 0, 0, at)
  bytes.writeUInt16BE(flags | HAS_HEADERS, 0)
  let end = bytes.writeUInt32BE(tableSize + entriesSize, at)
  if (hasHeaders) end += properties.copy(bytes, end, at + 4, tableEnd)
  for (const name in headers) {
    const value = headers[name]
    if (value !== undefined) end = writeField(bytes, end, name, value)
  }
  properties.copy(bytes, end, tableEnd)
  return bytes
}

function writeField(bytes: Buffer, at: number, name: string, value: string): number {
  const nameSize = bytes.write(name, at + 1, 'utf8')
  bytes[at] = nameSize
  const typeAt = at + 1 + nameSize
  bytes[typeAt] = LONG_STRING
  const valueSize = bytes.write(value, typeAt + 5, 'utf8')
  bytes.writeUInt32BE(valueSize, typeAt + 1)
  return typeAt + 5 + valueSize
}

/** Where the header table is, or would be; -1 when the properties are malformed. */
function headersAt(properties: Buffer): number {
  if (properties.length < 2) return -1
  const flags = properties.readUInt16BE(0)
  let at = 2
  if (flags & HAS_CONTENT_TYPE) at += 1 + (properties[at] ?? 0)
  if (flags & HAS_CONTENT_ENCODING) at += 1 + (properties[at] ?? 0)
  const end = at + (flags & HAS_HEADERS ? 4 : 0)
  return end > properties.length ? -1 : at
}
