/** Who may come in, and what they may do: from the settings and the documents of the topology. */
import type { Config } from '@sluice/config'
import type { Report } from '@sluice/core'
import { ACCESS_KINDS, Access, Credentials, keptPassword, Tokens } from '@sluice/security'
import type { Store } from '@sluice/store'
import type { Topology } from '@sluice/topology'

interface Parts {
  readonly topology: Topology
  readonly store: Store
  readonly report: Report
}

/** Throws one Error that says what to change when the settings or the data folder will not do. */
export async function openCredentials(
  config: Config,
  { topology, store, report }: Parts,
): Promise<Credentials> {
  const password = config.adminPassword ?? (await keptPassword(config.dataDir))
  const nowMs = () => Date.now() + store.state.clockAheadMs
  const tokens = openTokens(config, nowMs)
  return new Credentials(config.adminUser, password, {
    access: openAccess(config, topology, nowMs),
    failuresPerMinute: config.loginFailuresMax,
    report,
    ...(tokens && { tokens }),
  })
}

/** Follows users, keys and permissions as the topology does. */
function openAccess({ adminUser }: Config, topology: Topology, nowMs: () => number): Access {
  const administrator = adminUser
  const access = new Access({ administrator, nowMs, directory: () => topology.table.documents })
  let { documents } = topology.table
  topology.watch(() => {
    const before = documents
    documents = topology.table.documents
    if (!documents.same(before, ACCESS_KINDS)) access.changed()
  })
  return access
}

function openTokens(config: Config, nowMs: () => number): Tokens | undefined {
  const { oidcIssuer: issuer, oidcAudience: audience, oidcJwksUrl: jwksUrl } = config
  if (issuer === undefined) return undefined
  if (audience === undefined) {
    throw new Error('SLUICE_OIDC_ISSUER needs SLUICE_OIDC_AUDIENCE: whom the tokens are for.')
  }
  return new Tokens({
    issuer,
    audience,
    jwksUrl,
    nameClaim: config.oidcNameClaim,
    scopeClaim: config.oidcScopeClaim,
    scopePrefix: config.oidcScopePrefix,
    nowMs,
  })
}
