/**
 * What must be true at the end, whatever happened: each check gives a sentence for each violation.
 */
import type { Copy, Delivery, Ledger } from './ledger.ts'
import { planOf } from './queues.ts'

/** A violation of what is promised while Redis keeps what it confirmed. */
export function checkAll(ledger: Ledger): string[] {
  const wrong = [...ledger.wrong]
  const tokens = new Map<string, string>()
  for (const copy of ledger.all()) {
    wrong.push(
      ...checkEnd(copy),
      ...checkStoredOnce(copy),
      ...checkDeliveries(copy),
      ...checkTokens(copy, tokens),
    )
  }
  for (const [queue, copies] of ledger.copies) {
    const { http, amqp, keyed } = planOf(queue)
    const list = [...copies.values()]
    if (http + amqp === 1 && !keyed && queue !== 'later') wrong.push(...checkLine(list))
    if (keyed) wrong.push(...checkKeys(list))
  }
  return wrong
}

/** Confirmed, and neither consumed nor dead: lost. */
export function isLost(copy: Copy): boolean {
  const { sent, settled, maybeSettled, dead } = copy
  return sent.confirmedAt !== undefined && settled === 0 && !maybeSettled && dead.length === 0
}

function checkEnd(copy: Copy): string[] {
  const { settled, dead } = copy
  const wrong: string[] = []
  if (isLost(copy)) wrong.push(`${name(copy)} was confirmed and is lost`)
  if (settled > 1) wrong.push(`${name(copy)} was settled ${settled} times`)
  if (settled > 0 && dead.length > 0) wrong.push(`${name(copy)} was settled and died (${dead})`)
  if (dead.length > 1) wrong.push(`${name(copy)} is dead ${dead.length} times (${dead})`)
  for (const reason of dead) wrong.push(...checkDeath(copy, reason))
  return wrong
}

function checkDeath(copy: Copy, reason: string): string[] {
  if (reason === 'rejected') {
    return copy.rejectedAt !== undefined || copy.maybeRejected
      ? []
      : [`${name(copy)} died as rejected, and nobody rejected it`]
  }
  if (reason !== 'delivery_limit') return [`${name(copy)} died of ${reason || 'nothing'}`]
  const { deliveryLimit } = planOf(copy.queue)
  // Deliveries whose answer was lost count as well, and nobody here saw them.
  const seen = copy.deliveries.reduce((most, { failed }) => Math.max(most, failed), 0)
  return seen <= deliveryLimit ? [] : [`${name(copy)} died after ${seen} failures`]
}

/** One publish, one stored message; one first delivery. */
function checkStoredOnce(copy: Copy): string[] {
  const refs = new Set(copy.deliveries.map(({ ref }) => ref).filter((ref) => ref !== ''))
  const firsts = copy.deliveries.filter(({ redelivered }) => !redelivered)
  const wrong: string[] = []
  if (refs.size > 1) wrong.push(`${name(copy)} was stored ${refs.size} times: ${[...refs]}`)
  if (firsts.length > 1) wrong.push(`${name(copy)} came ${firsts.length} times as new`)
  return wrong
}

function checkDeliveries(copy: Copy): string[] {
  const { deliveryLimit } = planOf(copy.queue)
  const { delayMs, sentAt } = copy.sent
  const ended = Math.min(copy.settledAt ?? Infinity, copy.rejectedAt ?? Infinity)
  const wrong: string[] = []
  for (const { count, failed, redelivered, askedAt, cameAt } of copy.deliveries) {
    if (count !== undefined && redelivered !== count > 1) {
      wrong.push(`${name(copy)} came for the ${count}th time, redelivered: ${redelivered}`)
    }
    if (failed > deliveryLimit) wrong.push(`${name(copy)} came after ${failed} failures`)
    if (failed >= (count ?? Infinity))
      wrong.push(`${name(copy)} failed ${failed} times in ${count} deliveries`)
    if (askedAt > ended) wrong.push(`${name(copy)} came after it was settled`)
    if (cameAt < sentAt + delayMs - 1) wrong.push(`${name(copy)} came before its delay was over`)
  }
  return wrong
}

/** A token is handed out once: else two consumers hold the same delivery. */
function checkTokens(copy: Copy, tokens: Map<string, string>): string[] {
  const wrong: string[] = []
  for (const { token } of copy.deliveries) {
    if (token === '') continue
    const known = tokens.get(`${copy.queue} ${token}`)
    if (known !== undefined) wrong.push(`${name(copy)} has the token of ${known}`)
    tokens.set(`${copy.queue} ${token}`, copy.sent.id)
  }
  return wrong
}

/** With one consumer, what a publisher had confirmed one by one comes first in that order. */
function checkLine(copies: readonly Copy[]): string[] {
  const wrong: string[] = []
  for (const own of Map.groupBy(copies, ({ sent }) => sent.publisher).values()) {
    const order = own
      .filter(({ sent }) => sent.confirmedAt !== undefined)
      .flatMap((copy) => {
        const first = copy.deliveries.find(({ redelivered }) => !redelivered)
        return first ? [{ copy, ref: first.ref, cameAt: first.cameAt }] : []
      })
    for (const [index, { copy, ref, cameAt }] of order.entries()) {
      const next = order[index + 1]
      if (!next) break
      if (next.cameAt < cameAt) wrong.push(`${name(next.copy)} came before ${name(copy)}`)
      if (next.ref !== '' && next.ref < ref)
        wrong.push(`${name(next.copy)} is stored before ${name(copy)}`)
    }
  }
  return wrong
}

/**
 * Within a key no message comes while an earlier one has not ended, nor an earlier one after it.
 * Answers may arrive late, so only what cannot be explained that way is a violation.
 */
function checkKeys(copies: readonly Copy[]): string[] {
  const wrong: string[] = []
  const keyed = copies.filter(
    ({ sent, deliveries }) => sent.confirmedAt !== undefined && deliveries.length > 0,
  )
  for (const own of Map.groupBy(keyed, ({ sent }) => sent.key).values()) {
    for (const [index, copy] of own.entries()) {
      const next = own[index + 1]
      if (!next) break
      const began = Math.min(...next.deliveries.map(({ cameAt }) => cameAt))
      const again = copy.deliveries.find(({ askedAt }) => askedAt > began)
      if (again) wrong.push(`${name(copy)} came again after ${name(next)} of its key`)
      const died = copy.dead.includes('delivery_limit')
      if (!died && (copy.endedAt ?? Infinity) > began) {
        wrong.push(`${name(next)} came before ${name(copy)} of its key had ended`)
      }
    }
  }
  return wrong
}

/** Copies that came more than once, and how often in all. */
export function countRedelivered(ledger: Ledger): number {
  let total = 0
  for (const { deliveries } of ledger.all()) {
    total += deliveries.filter(({ redelivered }: Delivery) => redelivered).length
  }
  return total
}

/** Names a copy, with its story: when it was sent, and when it came, `!` = as redelivered. */
function name({ queue, sent, deliveries }: Copy): string {
  const came = deliveries.map(({ token, redelivered, cameAt }) => {
    return `${redelivered ? '!' : ''}${Math.round(cameAt)} ${token}`
  })
  return `${queue}/${sent.id} (sent ${Math.round(sent.sentAt)}, came ${came})`
}
