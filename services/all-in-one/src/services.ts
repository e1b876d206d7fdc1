/** Every service there is, by the name that starts it. */
import { delivery } from '@sluice/delivery'
import { reaper } from '@sluice/reaper'
import { router } from '@sluice/router'
import type { MakeService } from '@sluice/server'

export const SERVICES: Readonly<Record<string, MakeService>> = { router, delivery, reaper }
