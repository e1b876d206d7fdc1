/** Every client, and what is run through it. */
import { accessSync } from 'node:fs'
import type { Client, Json } from './client.ts'
import { amqplib } from './clients/amqplib.ts'
import { PYTHON, pika, pyAmqp } from './clients/bridge.ts'
import { cloudamqp } from './clients/cloudamqp.ts'
import { rabbitmqClient } from './clients/rabbitmq-client.ts'
import { celery } from './programs/celery.ts'
import { python } from './programs/command.ts'
import * as frames from './programs/frames.ts'
import * as librabbitmq from './programs/librabbitmq.ts'
import * as recovery from './programs/recovery.ts'
import * as rpc from './programs/rpc.ts'
import * as tutorial from './programs/tutorial.ts'
import { connections } from './scenarios/connections.ts'
import { consuming } from './scenarios/consuming.ts'
import { lifetime } from './scenarios/lifetime.ts'
import { publishing } from './scenarios/publishing.ts'
import { topology } from './scenarios/topology.ts'
import type { Scenarios } from './scene.ts'

/** What every client is put through, as far as it can. */
export const SCENARIOS: Scenarios = {
  ...publishing,
  ...consuming,
  ...topology,
  ...lifetime,
  ...connections,
}

/** A program of a client's own: in its idiom, or of what only it has. */
export type Program = (url: string, name: (suffix: string) => string) => Promise<Json>

interface Suite {
  /** Runs SCENARIOS. */
  readonly client?: Client
  readonly programs?: Readonly<Record<string, Program>>
  /** Files without which it cannot run, and who brings them. */
  readonly needs?: { readonly files: readonly string[]; readonly from: string }
}

const kombu =
  (program: string): Program =>
  (url, name) =>
    python('kombu_programs.py', program, url, name(''))

const debian = (module: string) => ({
  files: [PYTHON, `/usr/lib/python3/dist-packages/${module}`],
  from: `apt: python3-${module}`,
})

const RECOVERS = 'the socket is cut: consumers and publishers carry on'

export const SUITES: Readonly<Record<string, Suite>> = {
  amqplib: { client: amqplib, programs: { [RECOVERS]: recovery.amqplibRecovery } },
  'rabbitmq-client': {
    client: rabbitmqClient,
    programs: {
      [RECOVERS]: recovery.rabbitmqClientRecovery,
      'calls and answers': rpc.rabbitmqClientRpc,
    },
  },
  '@cloudamqp/amqp-client': {
    client: cloudamqp,
    programs: { [RECOVERS]: recovery.cloudamqpRecovery, 'calls and answers': rpc.cloudamqpRpc },
  },
  'amqp-connection-manager': {
    programs: {
      [RECOVERS]: recovery.managed,
      'published before the connection': rpc.managedQueueing,
    },
  },
  pika: {
    client: pika,
    programs: {
      "an article's programs as they stand": tutorial.asItStands,
      "an article's programs, corrected": tutorial.corrected,
    },
    needs: debian('pika'),
  },
  'py-amqp': { client: pyAmqp, needs: debian('amqp') },
  kombu: {
    programs: {
      'how it takes the broker': kombu('broker'),
      'simple queue': kombu('simple'),
      'fanout exchange': kombu('fanout'),
      'confirmed publishing, priorities, returns': kombu('confirms'),
      'calls and answers': kombu('rpc'),
    },
    needs: debian('kombu'),
  },
  celery: {
    programs: {
      'results over AMQP, groups, chains': celery('results', { results: 'rpc' }),
      retries: celery('retries', { results: 'rpc' }),
      'eta and countdown': celery('eta', { results: 'rpc' }),
      chords: celery('chords', { results: 'redis' }),
      'acks_late, its process killed': celery('acks_late', { results: 'rpc' }),
      'remote control': celery('control', { results: 'rpc' }),
    },
    needs: debian('celery'),
  },
  'raw frames': {
    programs: {
      'wrong protocol headers': frames.wrongHeaders,
      'what the broker says of itself': frames.greeting,
      tuning: frames.tuning,
      'channels and methods': frames.channelsAndMethods,
      'frames of content': frames.contents,
      'unusual requests': frames.requests,
      'unusual values': frames.values,
    },
  },
  librabbitmq: {
    programs: {
      'publish, get, delete': librabbitmq.publishAndGet,
      'consume with prefetch': librabbitmq.consume,
    },
    needs: { files: ['/usr/bin/amqp-publish'], from: 'apt: amqp-tools' },
  },
}

/** Why a suite cannot run here; undefined when it can. */
export function missing({ needs }: Suite): string | undefined {
  for (const file of needs?.files ?? []) {
    try {
      accessSync(file)
    } catch {
      return needs!.from
    }
  }
  return undefined
}
