/** Takes OTLP/HTTP and throws it away, in a process of its own so that it costs nobody else. */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'

const server = createServer((req, res) => {
  req.resume()
  req.on('end', () => res.end('{}'))
})
server.listen(0, '127.0.0.1', () => {
  process.send?.({ http: `http://127.0.0.1:${(server.address() as AddressInfo).port}` })
})
process.once('SIGTERM', () => process.exit(0))
