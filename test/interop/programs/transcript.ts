/** A raw client's session written down: what a broker sends for what it is sent, frame by frame. */
import { decodeProperties, type ServerMethod } from '@sluice/amqp'
import { AmqpPeer, type LoginOptions, type PeerFrame } from '../../support/amqp-peer.ts'
import { describe, type Json } from '../client.ts'
import { sleep } from '../scene.ts'

/** Nothing for so long: that was all. */
const QUIET_MS = 1_500
const HEARD_MS_MAX = 30_000

export interface Raw {
  readonly peer: AmqpPeer
  /** What came since the last call, a line a frame, until nothing comes for a while. */
  heard(options?: { quietMs?: number }): Promise<string[]>
}

/** A connection that is open, with channel 1, unless told otherwise. */
export async function raw(
  url: string,
  login: (LoginOptions & { channel?: number }) | 'connected' = {},
): Promise<Raw> {
  const { port, username, password } = new URL(url)
  const peer = await AmqpPeer.connect(Number(port))
  if (login !== 'connected') {
    const user = decodeURIComponent(username)
    await peer.login({ user, password: decodeURIComponent(password), ...login })
    if (login.channel !== 0) await peer.openChannel(1)
  }
  return { peer, heard: ({ quietMs = QUIET_MS } = {}) => heard(peer, quietMs) }
}

async function heard(peer: AmqpPeer, quietMs: number): Promise<string[]> {
  const deadline = performance.now() + HEARD_MS_MAX
  let [count, since] = [peer.unread.length, performance.now()]
  while (performance.now() < Math.min(since + quietMs, deadline) && !peer.socket.destroyed) {
    await sleep(10)
    if (peer.unread.length !== count) [count, since] = [peer.unread.length, performance.now()]
  }
  const lines: string[] = []
  while (peer.unread.length > 0) lines.push(line(await peer.next()))
  if (peer.socket.destroyed) lines.push('hung up')
  return lines
}

function line(frame: PeerFrame): string {
  switch (frame.kind) {
    case 'method':
      return `${frame.channel} ${method(frame.method)}`
    case 'header':
      return `${frame.channel} header ${frame.size} ${JSON.stringify(
        describe(decodeProperties(frame.properties)),
      )}`
    case 'body':
      return `${frame.channel} body ${frame.body.toString('utf8')}`
    case 'heartbeat':
      return `${frame.channel} heartbeat`
  }
}

function method({ name, ...fields }: ServerMethod): string {
  const shown = Object.entries(fields).filter(
    ([field]) => !['serverProperties', 'clusterId'].includes(field),
  )
  return `${name} ${JSON.stringify(describe(Object.fromEntries(shown)) satisfies Json)}`
}
