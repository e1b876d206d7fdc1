--[[
  return: give messages back, each in its own way, provided the caller still holds them.

  Six arguments a message:
    place    'level:id' of the batch it is in, or '' for a single message
    ref      the single message's ref, or its index within the batch
    fence    as in settle
    action   ready     deliverable at once, at its old position
             unseen    the same, and no consumer saw it: the delivery does not count, if it was the
                       ms-th of the queue and the last; else a later message may have gone before
             due       deliverable after ms (retry with back-off)
             dead      to the dead letters, reason 'rejected'
             extend    the lease ends ms from here
    ms       delay or lease, for due and extend; see unseen
    failure  '-' = does not count as a failed delivery, '+' = it does; then the error, may be empty;
             then, if this was an attempt to keep, char 30 and its text

  Attempts are kept behind the last error in the tally, newest first, each char 30 and its text.

  Past the delivery limit a failed message goes to the dead letters, reason 'delivery_limit'.
  A record that leaves a batch is marked in `partial`; when the last one leaves, so does the batch.
  Where a queue becomes too long by it, the oldest messages go: often the very ones that came back.

  ARGV[1] options  see prelude
  ARGV[2] slot     the caller's slot number; 0 = leases
  ARGV[3] round    of the slot, see comesLate; 0 for leases
  ARGV[4] limits   'maxLength maxBytes overflow', -1 = none, or ''
  ARGV[5] ...      six a message, as above

  Returns {'ok', outcomes}: a letter a message: r(eady), d(ue), l (dead letter), e(xtended), x (stale)
       or {'late'}: the caller gave up on it
]]
options(ARGV[1])
local slotNumber = tonumber(ARGV[2])
if slotNumber > 0 and comesLate('d' .. slotNumber, tonumber(ARGV[3])) then
  return {'late'}
end
local now = clock()
local outcomes = {}
local soonest

-- Takes record `index` out of a pending batch: its ref and value, or nil when it is not held.
local function leaveBatch(place, index)
  local level, id = string.match(place, '^(%d+):(.+)$')
  level = tonumber(level)
  local log, field = logOf(level), partialOf(level, id)
  if #pendingOf(level, id, id, 1, 'd' .. slotNumber) == 0 then
    return nil
  end
  local blob = call('XRANGE', log, id, id)[1][2][2]
  local records = batchHeader(blob)
  local bitmap = call('HGET', PARTIAL, field) or string.rep('\0', math.ceil(records / 8))
  local found
  eachRecord(blob, bitmap, function(i, value)
    if i == index then
      found = value
    end
  end)
  if not found then
    return nil
  end
  local byte = math.floor(index / 8) + 1
  bitmap = string.sub(bitmap, 1, byte - 1)
    .. string.char(bit.bor(string.byte(bitmap, byte), bit.lshift(1, index % 8)))
    .. string.sub(bitmap, byte + 1)
  if popcount(bitmap) == records then
    call('XACK', log, GROUP, id)
    call('XDEL', log, id)
    call('HDEL', PARTIAL, field)
  else
    call('HSET', PARTIAL, field, bitmap)
  end
  local ref = refOf(level, id, index)
  call('HSET', SIDE, ref, found)
  call('HSET', TALLY, ref, tallyText(1, 0, '', 'd' .. slotNumber, ''))
  return ref, found
end

local function leaveHeld(ref, fence)
  local score = tonumber(call('ZSCORE', HELD, ref) or nil)
  if not score or (fence == '' and score ~= -slotNumber)
    or (fence ~= '' and (score < 0 or readTally(ref) ~= tonumber(fence))) then
    return nil
  end
  return ref, call('HGET', SIDE, ref)
end

local ATTEMPTS_MAX = 20
local ATTEMPTS_BYTES_MAX = 16384

-- What the tally keeps of a failure and of the ones before.
local function remember(failure, before)
  local text, attempt = string.match(failure, '^.([^\30]*)\30?(.*)$')
  local last, kept = string.match(before, '^([^\30]*)(.*)$')
  if attempt ~= '' then
    kept = '\30' .. attempt .. kept
    local size = 0
    for n = 1, ATTEMPTS_MAX do
      local upTo = (string.find(kept, '\30', size + 2, true) or #kept + 1) - 1
      if n > 1 and upTo > ATTEMPTS_BYTES_MAX then
        break
      end
      size = upTo
    end
    kept = string.sub(kept, 1, size)
  end
  return (text ~= '' and text or last) .. kept
end

-- Deliveries of this queue, those made undone not counted.
local function deliveriesSoFar()
  local counts = call('HMGET', META, 'delivered', 'redelivered')
  return (counts[1] or 0) + (counts[2] or 0) + (delta.delivered or 0) + (delta.redelivered or 0)
end

-- Undoes a delivery: what is known of the message is as before it was taken.
local function unsee(ref, acquired, failed, holder, failure)
  count(acquired > 1 and 'redelivered' or 'delivered', -1)
  if acquired > 1 then
    call('HSET', TALLY, ref, tallyText(acquired - 1, failed, '', holder, failure))
  else
    call('HDEL', TALLY, ref)
  end
end

local function finish(ref, value, action, ms, failure)
  local acquired, failed, _, holder, lastFailure = readTally(ref)
  local counts = string.sub(failure, 1, 1) == '+'
  lastFailure = remember(failure, lastFailure)
  failed = failed + (counts and 1 or 0)
  call('ZREM', HELD, ref)
  count('unacked', -1)
  call('HSET', TALLY, ref, tallyText(acquired, failed, '', holder, lastFailure))
  if action == 'unseen' and ms == deliveriesSoFar() then
    unsee(ref, acquired, failed, holder, lastFailure)
  end
  if action == 'dead' then
    doom(ref, value, 'rejected', '', '')
    return 'l'
  end
  if counts and deliveryLimit >= 0 and failed > deliveryLimit then
    doom(ref, value, 'delivery_limit', '', '')
    return 'l'
  end
  if action == 'due' and ms > 0 then
    call('ZADD', DUE, now + ms, ref)
    count('delayed', 1)
    soonest = math.min(soonest or now + ms, now + ms)
    return 'd'
  end
  countReady(1, value)
  makeReady(ref, value)
  return 'r'
end

for at = 5, #ARGV, 6 do
  local place, ref, fence, action = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local ms, value = tonumber(ARGV[at + 4]), nil
  if place == '' then
    ref, value = leaveHeld(ref, fence)
  else
    ref, value = leaveBatch(place, tonumber(ref))
  end
  if not ref then
    outcomes[#outcomes + 1] = 'x'
  elseif action == 'extend' then
    call('ZADD', HELD, now + ms, ref)
    soonest = math.min(soonest or now + ms, now + ms)
    outcomes[#outcomes + 1] = 'e'
  else
    outcomes[#outcomes + 1] = finish(ref, value, action, ms, ARGV[at + 5])
  end
end
trimReturned(ARGV[4], #outcomes)
commit()
if soonest then
  announce(soonest)
end
return {'ok', table.concat(outcomes)}
