/**
 * The consumers' side: hands messages out, takes their settlements, and shows what is in a queue.
 */
import type { Config } from '@sluice/config'
import type { Deps, Service } from '@sluice/server'
import { amqpDoors } from './amqp/listen.ts'
import { deadLetterRoutes } from './http-dead-letters.ts'
import { messageRoutes } from './http-messages.ts'
import { pullRoutes } from './http-pull.ts'

export function delivery(deps: Deps, config: Config): Service {
  const { doors, upgrades, loop } = amqpDoors(deps, config)
  return {
    name: 'delivery',
    routes: [...pullRoutes(deps), ...messageRoutes(deps), ...deadLetterRoutes(deps)],
    loops: [loop],
    doors,
    upgrades,
  }
}
