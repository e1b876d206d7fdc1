/**
 * `sluice audit verify [<number>:<hash>]`: walks the audit log and says whether it is intact.
 *
 * Exit codes: 0 intact, 1 broken or not readable, 2 not understood.
 */
import { loadConfig } from '@sluice/config'
import { openAudit } from '@sluice/server'
import { openStore } from '@sluice/store'

const USAGE =
  'Say: sluice audit verify [<number>:<hash>], the last entry as verify printed it before.'

export async function runAudit(
  args: readonly string[],
  print: (line: string) => void,
): Promise<0 | 1 | 2> {
  const [command, noted = '', ...rest] = args
  const [, number, hash] = /^(\d{1,15}):([\w-]{43})$/.exec(noted) ?? []
  if (command !== 'verify' || rest.length > 0 || (noted !== '' && hash === undefined)) {
    print(USAGE)
    return 2
  }
  const config = loadConfig(process.env)
  const report = (error: unknown) => print(String(error))
  const { redisUrl: url, redisCa: caFile, redisCert: certFile, redisKey: keyFile } = config
  const store = await openStore({ url, caFile, certFile, keyFile, report, allowEviction: true })
  try {
    const known = hash === undefined ? undefined : { number: Number(number), hash }
    const verdict = await openAudit(config, store, report).verify(known)
    if (verdict.kind === 'broken') {
      print(`broken at entry ${verdict.number}: ${verdict.why}`)
      return 1
    }
    print(`intact: entries ${verdict.first} to ${verdict.last}`)
    if (verdict.last > 0) print(`the last one, to be noted: ${verdict.last}:${verdict.hash}`)
    return 0
  } finally {
    await store.close()
  }
}
