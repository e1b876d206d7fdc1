/** librabbitmq, the C library, through its command line tools. */
import type { Program } from '../suites.ts'
import { run } from './command.ts'

export const publishAndGet: Program = async (url, name) => {
  const queue = name('queue')
  const tool = (command: string, args: readonly string[], input?: string) =>
    run(`amqp-${command}`, ['-u', url, ...args], input === undefined ? {} : { input })
  const declared = await tool('declare-queue', ['-d', '-q', queue])
  const published = await tool('publish', ['-r', queue, '-p', '-b', 'one'])
  const lines = await tool('publish', ['-r', queue, '-l'], 'two\nthree\n')
  const got = await tool('get', ['-q', queue])
  const deleted = await tool('delete-queue', ['-q', queue])
  const after = await tool('get', ['-q', queue])
  return {
    declared: [declared.code, declared.out.trim()],
    published: [published.code, lines.code],
    got: [got.code, got.out],
    deleted: [deleted.code, deleted.out.trim()],
    after: [after.code, after.err.trim()],
  }
}

/** Prefetch, acknowledging, and a queue of its own that is bound to an exchange. */
export const consume: Program = async (url, name) => {
  const queue = name('queue')
  await run('amqp-declare-queue', ['-u', url, '-q', queue])
  for (const body of ['one', 'two', 'three']) {
    await run('amqp-publish', ['-u', url, '-r', queue, '-b', body])
  }
  const consumed = await run('amqp-consume', ['-u', url, '-q', queue, '-p', '1', '-c', '2', 'cat'])
  const left = await run('amqp-get', ['-u', url, '-q', queue])
  return { code: consumed.code, out: consumed.out, left: left.out }
}
