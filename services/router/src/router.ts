/** The producers' and operators' side: takes messages in, and keeps the topology. */
import type { Config } from '@sluice/config'
import type { Deps, Service } from '@sluice/server'
import { batchRoute } from './http-batch.ts'
import { publishRoutes } from './http-publish.ts'
import { queueRoutes } from './http-queues.ts'
import { topologyRoutes } from './http-topology.ts'

export function router(deps: Deps, config: Config): Service {
  return {
    name: 'router',
    routes: [
      ...publishRoutes(deps, config),
      batchRoute(deps, config),
      ...topologyRoutes(deps),
      ...queueRoutes(deps),
    ],
    loops: [],
  }
}
