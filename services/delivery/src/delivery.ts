/**
 * The consumers' side: hands messages out, takes their settlements, and shows what is in a queue.
 */
import type { Config } from '@sluice/config'
import type { Deps, Service } from '@sluice/server'
import { amqpDoors } from './amqp/listen.ts'
import { Feeds } from './feeds.ts'
import { deadLetterRoutes } from './http-dead-letters.ts'
import { eventRoutes } from './http-events.ts'
import { messageRoutes } from './http-messages.ts'
import { pullRoutes } from './http-pull.ts'
import { redriveRoutes } from './http-redrives.ts'
import { LeaseSpans } from './lease-spans.ts'
import { Guard } from './push/guard.ts'
import { subscriptionRoutes } from './push/http-subscriptions.ts'
import { Pumps } from './push/pumps.ts'
import { WebSocketDoor } from './ws/listen.ts'

export function delivery(deps: Deps, config: Config): Service {
  const feeds = new Feeds(deps.report, deps)
  const { doors, upgrades, loop } = amqpDoors(deps, config, feeds)
  const webSocket = new WebSocketDoor(deps, config, feeds)
  const spans = new LeaseSpans(deps)
  const guard = new Guard(config.pushAllow)
  const pumps = new Pumps(deps, feeds, guard)
  return {
    name: 'delivery',
    routes: [
      ...pullRoutes(deps, spans),
      ...eventRoutes(deps, spans),
      ...messageRoutes(deps),
      ...deadLetterRoutes(deps),
      ...redriveRoutes(deps),
      ...subscriptionRoutes({
        topology: deps.topology,
        guard,
        stateOf: (vhost, name) => pumps.state(vhost, name),
      }),
    ],
    loops: [feeds.behind([loop, (signal) => webSocket.run(signal), (signal) => pumps.run(signal)])],
    doors,
    upgrades: [...upgrades, webSocket.upgrade],
  }
}
