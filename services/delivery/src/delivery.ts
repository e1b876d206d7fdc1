/** The consumers' side: hands messages out, takes their settlements, and shows what is in a queue. */
import type { Config } from '@sluice/config'
import type { Deps, Service } from '@sluice/server'
import { amqpDoor } from './amqp/listen.ts'
import { deadLetterRoutes } from './http-dead-letters.ts'
import { messageRoutes } from './http-messages.ts'
import { pullRoutes } from './http-pull.ts'

export function delivery(deps: Deps, config: Config): Service {
  return {
    name: 'delivery',
    routes: [...pullRoutes(deps), ...messageRoutes(deps), ...deadLetterRoutes(deps)],
    loops: [],
    doors: [amqpDoor(deps, config)],
  }
}
