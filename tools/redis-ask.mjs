import { connect } from 'node:net'

const ANSWER_MS_MAX = 2_000

/**
 * One command to the Redis on a loopback port, after logging in; resolves with the first line of
 * its reply as on the wire, e.g. '+PONG'. Rejects when nothing answers or the login is refused.
 *
 * @param {{ port: number, password: string }} server
 * @param {string[]} command words without spaces
 * @returns {Promise<string>}
 */
export async function ask({ port, password }, command) {
  const socket = connect(port, '127.0.0.1')
  socket.setTimeout(ANSWER_MS_MAX, () => socket.destroy(new Error('no answer')))
  socket.write(`AUTH ${password}\r\n${command.join(' ')}\r\n`)
  let text = ''
  for await (const chunk of socket) {
    text += chunk
    const [login = '', reply = '', rest] = text.split('\r\n')
    if (rest === undefined) continue
    if (!login.startsWith('+OK')) throw new Error(login)
    return reply
  }
  throw new Error('the connection closed before an answer')
}
