/** Whose message it is that asks for room, in the bytes of append.lua's extras. */

/**
 * A client as the script reads it.
 *
 * @param key at most 255 bytes; '' where the room is not fair.
 * @param weight above 0: of two clients, one of weight 2 has two turns for one of the other.
 */
export function roomClient(key: string, weight: number): Buffer {
  const size = Buffer.byteLength(key)
  const bytes = Buffer.allocUnsafe(9 + size)
  bytes.writeDoubleBE(weight, 0)
  bytes.writeUInt8(size, 8)
  bytes.write(key, 9, 'utf8')
  return bytes
}

/** The same with another name for its key: `rename` is asked for it, but for ''. */
export function renamedClient(client: Buffer, rename: (key: string) => string): Buffer {
  const key = client.toString('utf8', 9)
  return key === '' ? client : roomClient(rename(key), client.readDoubleBE(0))
}
