import { once } from 'node:events'
import { createServer } from 'node:net'

/**
 * Below what Linux gives to outgoing connections and to port 0 (32 768 and up), so that nobody else
 * on the machine takes the port by chance before the caller does.
 */
const PORT_MIN = 15_000
const PORT_MAX = 32_000
const ATTEMPTS_MAX = 100

/** A TCP port on 127.0.0.1 that nobody listened on a moment ago. */
export async function freePort(): Promise<number> {
  for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
    const port = PORT_MIN + Math.floor(Math.random() * (PORT_MAX - PORT_MIN))
    const probe = createServer().listen(port, '127.0.0.1')
    try {
      await once(probe, 'listening')
    } catch {
      continue // taken
    }
    probe.close()
    await once(probe, 'close')
    return port
  }
  throw new Error('no free TCP port')
}
