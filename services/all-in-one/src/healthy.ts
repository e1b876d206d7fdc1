/**
 * Exits with 0 when the process in this container answers: the image's HEALTHCHECK.
 *
 * Plain HTTP, or TLS where nothing else is served. It asks itself, so no certificate is needed, and
 * none is verified: names in them are those that others use.
 */
import { get } from 'node:http'
import { get as getSecurely } from 'node:https'

const { SLUICE_TLS_ONLY, SLUICE_HTTP_PORT, SLUICE_HTTPS_PORT } = process.env
/** What the settings take for yes. */
const tls = /^(true|1|yes|on|y|enabled)$/i.test(SLUICE_TLS_ONLY ?? '')
const request = tls
  ? getSecurely(`https://127.0.0.1:${SLUICE_HTTPS_PORT || 8_443}/healthz`, {
      rejectUnauthorized: false,
    })
  : get(`http://127.0.0.1:${SLUICE_HTTP_PORT || 8_080}/healthz`)
request
  .on('response', ({ statusCode }) => process.exit(statusCode === 200 ? 0 : 1))
  .on('error', () => process.exit(1))
