/** The producers' and operators' side: takes messages in, and keeps the topology. */
import type { Config } from '@sluice/config'
import type { Deps, Service } from '@sluice/server'
import { definitionRoutes } from './definitions/http-definitions.ts'
import { apiKeyRoutes } from './http-api-keys.ts'
import { auditRoute } from './http-audit.ts'
import { batchRoute } from './http-batch.ts'
import { dataKeyRoutes } from './http-data-keys.ts'
import { doctorRoute } from './http-doctor.ts'
import { publishRoutes } from './http-publish.ts'
import { queueRoutes } from './http-queues.ts'
import { scheduleRoutes } from './http-schedules.ts'
import { topologyRoutes } from './http-topology.ts'
import { userRoutes } from './http-users.ts'
import { ingestRoutes } from './ingest/http-ingests.ts'
import { requestRoute } from './ingest/http-requests.ts'
import { intake } from './ingest/intake.ts'

export function router(deps: Deps, config: Config): Service {
  return {
    name: 'router',
    routes: [
      ...publishRoutes(deps, config),
      batchRoute(deps, config),
      ...topologyRoutes(deps),
      ...queueRoutes(deps),
      ...userRoutes(deps),
      ...apiKeyRoutes(deps),
      ...dataKeyRoutes(deps),
      auditRoute(deps),
      ...definitionRoutes(deps),
      ...scheduleRoutes(deps),
      doctorRoute(deps, config),
      ...ingestRoutes(deps),
      requestRoute(deps),
    ],
    areas: [intake(deps, config)],
    loops: [],
  }
}
