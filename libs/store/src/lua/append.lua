--[[
  append: store up to 128 messages, in order, as one stream entry a priority level.

  Stored exactly once: a repeated call with the same writer and sequence answers what the first one
  answered and stores nothing; so does one that arrives after a later call of its writer, out of a
  connection that was given up on. Limits and de-duplication hold for each message on its own; a
  refused message leaves no de-duplication id behind.

  A waiting room (waiting-room.ts) admits up to `waitingMax` messages, those held and delayed
  included, and none while the next one to be delivered has waited for `oldestMs`. A fair one gives
  each client at most SHARE times its weight of the room that is left (dynamic thresholds,
  Choudhury and Hahne 1998), so that there is room for one who comes new; and its messages go not
  into the log but to `ready` by their turn, in virtual time: a client's next turn is 1/weight after
  its last, or now (start-time fair queueing, Goyal, Vin and Cheng 1996). Queues with levels or
  ordering keys have an order already and only admit.

  ARGV[1] options   see prelude
  ARGV[2] epoch     the queue's, as the topology knows it
  ARGV[3] writer    'slot:lane', never used again by another; each has at most one append in flight
  ARGV[4] sequence  counts the writer's appends
  ARGV[5] count     messages in `records`
  ARGV[6] records   per message '>I4' size and its bytes
  ARGV[7] soonestTtl  the shortest time to live of any message in ms, -1 = none
  ARGV[8] queueTtl  the queue's own, ms, -1 = none
  ARGV[9] limits    'maxLength maxBytes overflow', -1 = none, or ''
  ARGV[10] dedupWindow  ms
  ARGV[11] extras   '' or per message '>BI6Bc0': level, delay in ms, de-duplication id; with a room
                    '>dBc0' behind each: the client's weight and key
  ARGV[12] room     '' or 'waitingMax oldestMs fair', oldestMs 0 = any age, fair 0 or 1

  Returns {'stored'}: all of them
       or {'mixed', outcomes, half}: a letter a message, s(tored), d(uplicate), f(ull), or by the
          room w(ait, it is full) or c(rowded by its own client); half: how long half of what waits
          will take at the rate of late, ms, -1 = not known
       or {'late'}: the writer had its answer long ago
       or {'gone'}: the queue was deleted
       or {'missing'}: the queue has no keys yet, or lost some
]]
local sequence, records = ARGV[4], ARGV[6]
local total = tonumber(ARGV[5])
local writerField = 'w:' .. ARGV[3]
local meta = call('HMGET', META, 'epoch', 'gone', writerField, 'ready', 'bytes', 'published')
if meta[1] ~= ARGV[2] or meta[2] then
  if meta[1] and tonumber(meta[1]) >= tonumber(ARGV[2]) then
    return {'gone'}
  end
  return {'missing'}
end
if meta[3] then
  local seen, outcomes = string.match(meta[3], '^(%d+) ?(%a*)$')
  if seen == sequence then
    return outcomes == '' and {'stored'} or {'mixed', outcomes}
  end
  if tonumber(seen) > tonumber(sequence) then
    return {'late'}
  end
end

local now = clock()
local soonestTtl, queueTtl = tonumber(ARGV[7]), tonumber(ARGV[8])
local queueExpires = queueTtl >= 0 and now + lifetime(queueTtl) or 0
local soonest = soonestTtl >= 0 and now + lifetime(soonestTtl) or 0
if queueExpires ~= 0 and (soonest == 0 or queueExpires < soonest) then
  soonest = queueExpires
end

local maxLength, maxBytes, overflow = -1, -1, ''
if ARGV[9] ~= '' then
  local a, b, c = string.match(ARGV[9], '^(-?%d+) (-?%d+) (%S+)$')
  maxLength, maxBytes, overflow = tonumber(a), tonumber(b), c
end
local ready, bytes = tonumber(meta[4]), tonumber(meta[5])
local size = #records - 4 * total
local fits = (maxLength < 0 or ready + total <= maxLength)
  and (maxBytes < 0 or bytes + size <= maxBytes)

local function header(n)
  return struct.pack('>BHddd', 1, n, now, soonest, queueExpires)
end

-- A time to live of 0: to whoever waits for it, else it has expired.
local inVain = (soonestTtl == 0 or queueTtl == 0) and call('EXISTS', CONSUMERS, WAITING) == 0

if ARGV[11] == '' and fits and ARGV[12] == '' and not inVain then
  call('XADD', LOG, '*', 'b', header(total) .. records)
  call('HSET', META, 'ready', ready + total, 'bytes', bytes + size,
    'published', meta[6] + total, writerField, sequence)
  wake()
  if soonest ~= 0 then
    announce(soonest)
  end
  return {'stored'}
end

-- From here message by message.
options(ARGV[1])
if not isWhole() then
  return {'missing'}
end
local rejects = overflow == 'reject-publish' or overflow == 'reject-publish-dlx'
local window = tonumber(ARGV[10])
local bucket = math.floor(now / window)
local dedup = base .. 'dedup:' .. ARGV[2] .. ':'
local ids, seen = {}, {}
local byLevel, later, turns, refused, expired = {}, {}, {}, {}, {}
local outcomes = {}
local at, extraAt = 1, 1

-- The waiting room. Its drain rate is measured over spans in which it never was empty.
local SHARE, SPAN_MS, SPAN_MS_MAX = 4, 1000, 10000
local waiting, waitingMax, fair, half, turn = 0, math.huge, false, -1, 0
local tags = {} -- client -> when its next turn is

local function drainRate(out)
  local since, before, rate = string.match(call('HGET', META, 'drain') or '', '^(%S+) (%S+) (%S+)$')
  since, before, rate = tonumber(since), tonumber(before), tonumber(rate) or -1
  if since and waiting > 0 and now - since < SPAN_MS then
    return rate
  end
  if since and waiting > 0 and now - since <= SPAN_MS_MAX then
    local measured = math.max(0, out - before) / (now - since)
    rate = rate < 0 and measured or (rate + measured) / 2
  end
  fields[#fields + 1] = 'drain'
  fields[#fields + 1] = string.format('%d %d %.6f', now, out, rate)
  return rate
end

local function isTooOld(oldestMs)
  local ref = oldestMs > 0 and (readyRefs(levels - 1, 1)[1] or nil)
  local entry = oldestMs > 0 and not ref and call('EXISTS', LOG) == 1 and headOf(0)
  local stored = ref and select(2, placeOf(ref)) or entry and entry[1]
  return stored and now - tonumber(string.match(stored, '^%d+')) > oldestMs
end

if ARGV[12] ~= '' then
  local most, oldest, isFair = string.match(ARGV[12], '^(%d+) (%d+) ([01])$')
  local counts = call('HMGET', META, 'unacked', 'delayed')
  waiting = ready + (counts[1] or 0) + (counts[2] or 0)
  local rate = drainRate(meta[6] - waiting)
  half = rate > 0 and math.ceil(waiting / rate / 2) or -1
  waitingMax = isTooOld(tonumber(oldest)) and 0 or tonumber(most)
  fair = isFair == '1' and levels == 1 and not ordered
end
if fair then
  local nextTurn = call('ZRANGEBYSCORE', READY, '(0', '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]
  turn = tonumber(nextTurn) or 1
  call('ZREMRANGEBYSCORE', TAGS, '-inf', nextTurn or '+inf')
end

-- Why the room refuses a client's next message, or nil; then when that one's turn is.
local function roomRefuses(client, weight)
  if waiting >= waitingMax then
    return 'w'
  end
  if not fair then
    return nil
  end
  tags[client] = tags[client] or tonumber(call('ZSCORE', TAGS, client) or nil) or turn
  local own = (tags[client] - turn) * weight
  if own > 0 and own >= SHARE * weight * (waitingMax - waiting) then
    return 'c'
  end
  return nil, tags[client]
end

local function isDuplicate(id)
  return seen[id] or call('SISMEMBER', dedup .. bucket, id) == 1
    or call('SISMEMBER', dedup .. (bucket - 1), id) == 1
end

for i = 1, total do
  local length = struct.unpack('>I4', records, at)
  local record = string.sub(records, at + 4, at + 3 + length)
  at = at + 4 + length
  local level, delay, id = 0, 0, ''
  if ARGV[11] ~= '' then
    level, delay, id, extraAt = struct.unpack('>BI6Bc0', ARGV[11], extraAt)
  end
  local refusal, due, client, weight
  if ARGV[12] ~= '' then
    weight, client, extraAt = struct.unpack('>dBc0', ARGV[11], extraAt)
    refusal, due = roomRefuses(client, weight)
  end
  if id ~= '' and isDuplicate(id) then
    outcomes[i] = 'd'
  elseif refusal then
    outcomes[i] = refusal
  elseif inVain and delay == 0 and (queueTtl == 0 or ttlOf(record, 1) == 0) then
    outcomes[i] = 's'
    expired[#expired + 1] = record
    count('published', 1)
    if id ~= '' then
      seen[id] = true
      ids[#ids + 1] = id
    end
  elseif rejects and delay == 0 and ((maxLength >= 0 and ready + 1 > maxLength)
    or (maxBytes >= 0 and bytes + length > maxBytes)) then
    outcomes[i] = 'f'
    refused[#refused + 1] = record
  else
    outcomes[i] = 's'
    if id ~= '' then
      seen[id] = true
      ids[#ids + 1] = id
    end
    waiting = waiting + 1
    if delay > 0 then
      later[#later + 1] = {level, delay, record}
    else
      ready, bytes = ready + 1, bytes + length
      if due then
        turns[#turns + 1] = {due, record}
        tags[client] = due + 1 / weight
      else
        local list = byLevel[level] or {}
        byLevel[level] = list
        list[#list + 1] = struct.pack('>I4', length) .. record
      end
      count('ready', 1)
      count('bytes', length)
    end
    count('published', 1)
  end
end

if #ids > 0 then
  call('SADD', dedup .. bucket, unpack(ids))
  call('PEXPIRE', dedup .. bucket, 2 * window)
end
for level, list in pairs(byLevel) do
  call('XADD', logOf(level), '*', 'b', header(#list) .. table.concat(list))
end

-- Messages that do not enter the log take a position of their own in it all the same.
local function position(level)
  local id = call('XADD', logOf(level), '*', 'b', '')
  call('XDEL', logOf(level), id)
  return id
end

if #later > 0 then
  local first
  local positions = {}
  for i, item in ipairs(later) do
    local level, delay, record = item[1], item[2], item[3]
    positions[level] = positions[level] or position(level)
    local ref = refOf(level, positions[level], i - 1)
    local expires = expiryOf(record, 1, now, queueExpires)
    call('HSET', SIDE, ref, struct.pack('>dd', now, expires) .. record)
    call('ZADD', DUE, now + delay, ref)
    count('delayed', 1)
    first = math.min(first or now + delay, now + delay)
  end
  announce(first)
end

if #turns > 0 then
  local id = position(0)
  local values, scores, ends = {}, {}, {}
  for i, item in ipairs(turns) do
    local ref, record = refOf(0, id, #later + i - 1), item[2]
    values[2 * i - 1], scores[2 * i] = ref, ref
    values[2 * i] = struct.pack('>dd', now, expiryOf(record, 1, now, queueExpires)) .. record
    scores[2 * i - 1] = item[1]
  end
  for client, tag in pairs(tags) do
    ends[#ends + 1], ends[#ends + 2] = tag, client
  end
  callMany('HSET', SIDE, values)
  callMany('ZADD', READY, scores)
  callMany('ZADD', TAGS, ends)
end

if #expired > 0 then
  local id = position(0)
  for i, record in ipairs(expired) do
    doom(refOf(0, id, i - 1), struct.pack('>dd', now, now) .. record, 'expired', '', '')
  end
end

-- Where there is a dead letter exchange: a refused message was here just long enough to die.
if overflow == 'reject-publish-dlx' and deadLetters == 'exchange' and #refused > 0 then
  count('published', #refused)
  local id = position(0)
  for i, record in ipairs(refused) do
    doom(refOf(0, id, i - 1), struct.pack('>dd', now, 0) .. record, 'maxlen', '', '')
  end
end

if not rejects and dropHead(ready, bytes, maxLength, maxBytes, total + 1024) then
  announce(0) -- the limit was lowered far below what is here: sweep goes on
end

commit()
local letters = table.concat(outcomes)
local mixed = string.find(letters, '[dfwc]')
call('HSET', META, writerField, mixed and sequence .. ' ' .. letters or sequence)
if ready > 0 then
  wake()
end
if soonest ~= 0 then
  announce(soonest)
end
return mixed and {'mixed', letters, half} or {'stored'}
