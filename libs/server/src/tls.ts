/**
 * TLS of every listener: one certificate, read again when its files change, and whom the
 * certificate of a client names.
 */
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import type { Socket } from 'node:net'
import { createSecureContext, type Server, TLSSocket, type TlsOptions } from 'node:tls'
import type { Config } from '@sluice/config'
import { limits } from '@sluice/core'
import type { Logger } from '@sluice/telemetry'

/** Files are replaced in many ways, by links too, which watching misses: so they are read. */
const LOOK_MS = 5_000

/** Those with forward secrecy and authenticated encryption (Mozilla's intermediate set). */
const CIPHERS = [
  'TLS_AES_128_GCM_SHA256',
  'TLS_AES_256_GCM_SHA384',
  'TLS_CHACHA20_POLY1305_SHA256',
  'ECDHE-ECDSA-AES128-GCM-SHA256',
  'ECDHE-RSA-AES128-GCM-SHA256',
  'ECDHE-ECDSA-AES256-GCM-SHA384',
  'ECDHE-RSA-AES256-GCM-SHA384',
  'ECDHE-ECDSA-CHACHA20-POLY1305',
  'ECDHE-RSA-CHACHA20-POLY1305',
].join(':')

type Files = Pick<TlsOptions, 'cert' | 'key' | 'ca'>
type NameOf = Config['tlsClientName']

export class Tls {
  readonly #paths: readonly (readonly [keyof Files, string])[]
  readonly #nameOf: NameOf
  readonly #log: Logger
  readonly #servers = new Set<Server>()
  readonly #names = new WeakMap<Socket, string>()
  readonly #timer: NodeJS.Timeout
  #options: TlsOptions
  #digest: string

  /** Throws when a file cannot be read, or is none. */
  constructor(paths: readonly (readonly [keyof Files, string])[], nameOf: NameOf, log: Logger) {
    this.#paths = paths
    this.#nameOf = nameOf
    this.#log = log
    const files = Object.fromEntries(paths.map(([name, path]) => [name, readFileSync(path)]))
    this.#options = this.#optionsOf(files)
    createSecureContext(this.#options)
    this.#digest = digestOf(files)
    this.#timer = setInterval(() => {
      this.#look().catch((error) => log.error({ err: error }, 'the certificate stays as it was'))
    }, LOOK_MS)
    this.#timer.unref()
  }

  /** For `tls.createServer` and `https.createServer`. */
  get options(): TlsOptions {
    return this.#options
  }

  /** New certificates are its own too, for connections that come. */
  follow(server: Server): void {
    this.#servers.add(server)
    server.on('close', () => this.#servers.delete(server))
  }

  close(): void {
    clearInterval(this.#timer)
  }

  /** Whom the certificate of a client names, if the authority for clients vouches for it. */
  certified(socket: Socket): string | undefined {
    if (!(socket instanceof TLSSocket) || !socket.authorized) return undefined
    let name = this.#names.get(socket)
    if (name === undefined) {
      name = this.#read(socket) ?? ''
      this.#names.set(socket, name)
    }
    return name === '' ? undefined : name
  }

  #read(socket: TLSSocket): string | undefined {
    const { subject, subjectaltname } = socket.getPeerCertificate()
    if (this.#nameOf === 'cn') {
      return typeof subject?.CN === 'string' ? subject.CN : undefined
    }
    // Quoted is what holds a separator: such a name is not one of ours.
    if (subjectaltname === undefined || subjectaltname.includes('"')) return undefined
    const prefix = { dns: 'DNS:', email: 'email:', uri: 'URI:' }[this.#nameOf]
    const found = subjectaltname.split(', ').find((entry) => entry.startsWith(prefix))
    return found?.slice(prefix.length)
  }

  async #look(): Promise<void> {
    const read = this.#paths.map(async ([name, path]) => [name, await readFile(path)] as const)
    const files = Object.fromEntries(await Promise.all(read))
    const digest = digestOf(files)
    if (digest === this.#digest) return
    const options = this.#optionsOf(files)
    createSecureContext(options) // throws when they do not go together: half of them is replaced
    this.#digest = digest
    this.#options = options
    for (const server of this.#servers) server.setSecureContext(options)
    this.#log.info('a new certificate is in use')
  }

  /** With an authority for clients, one that presents a certificate may come in by it. */
  #optionsOf(files: Files): TlsOptions {
    return {
      ...files,
      minVersion: 'TLSv1.2',
      ciphers: CIPHERS,
      honorCipherOrder: true,
      handshakeTimeout: limits.AMQP_HANDSHAKE_MS_MAX,
      // One without a certificate may still say its password.
      ...(files.ca !== undefined && { requestCert: true, rejectUnauthorized: false }),
    }
  }
}

const digestOf = (files: Readonly<Record<string, Buffer>>): string => {
  const digest = createHash('sha256')
  for (const bytes of Object.values(files)) digest.update(bytes).update('\0')
  return digest.digest('hex')
}

/** Undefined without a certificate. Throws one Error that says what to change. */
export function openTls(config: Config, log: Logger): Tls | undefined {
  const { tlsCert, tlsKey, tlsClientCa, tlsClientName, tlsOnly } = config
  if (tlsCert === undefined || tlsKey === undefined) {
    if (tlsCert !== tlsKey) {
      throw new Error('SLUICE_TLS_CERT and SLUICE_TLS_KEY go together: set both, or neither.')
    }
    if (tlsOnly) throw new Error('SLUICE_TLS_ONLY needs SLUICE_TLS_CERT and SLUICE_TLS_KEY.')
    return undefined
  }
  const ca = tlsClientCa === undefined ? [] : ([['ca', tlsClientCa]] as const)
  return new Tls([['cert', tlsCert], ['key', tlsKey], ...ca], tlsClientName, log)
}
