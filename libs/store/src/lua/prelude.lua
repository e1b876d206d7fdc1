--[[
  prelude: put before every script (script.ts). Names a queue's keys and holds the steps that
  several transitions share.

  A queue's keys all start with KEYS[1], 'sluice:{vhost/queue}:', so they share one hash slot; for
  KEYS[2] see script.ts:

    log, log:1..9  stream, group 'delivery': batches, unread or pending for a slot; one log a level
    side           hash  ref -> value: messages that left the log one by one
    ready          zset  ref -> 0, or its turn where a fair waiting room gave it one (append.lua):
                   side messages deliverable now
    tags           zset  client -> when its next turn is, while it has one to come
    due            zset  ref -> ms: side messages that wait
    held           zset  ref -> deadline in ms for a lease, -n for slot number n
    dead           zset  ref -> ms until which a reaper claims it: dead letters on their way out
    tally          hash  ref -> 'acquired failed reason holder\nerror'; absent = never delivered
    partial        hash  entry id (level 0) or 'level:id' -> bitmap of records that left the batch
    heads, parked  ordering keys: hash key -> the one message of it outside `parked`; zset of the key's
                   length in a byte, the key, the ref: no key is the start of another's members
    meta           hash  epoch, gone, counters, agenda, 'w:<writer>' -> the writer's last append, and
                   'd:<slot>' -> when a slot that was a writer was found dead, ms, and
                   'r:<slot>' -> the round that a slot's calls are in, see comesLate, and
                   'x:<job>' -> what a job has acknowledged, while it is under way
    waiting        set   slots that want a wake-up
    consumers      hash  id -> 'slot order priority exclusive'; meta's 'active' names the single one
    dedup:<epoch>:<bucket>  set of de-duplication ids

  A batch is '>BHddd' version, count, time, soonest, expires, then per record '>I4' size and bytes.
    time     when it was stored, ms; soonest: the earliest expiry of any record, ms, 0 = none;
    expires  expiry by the queue's own TTL, ms, 0 = none
  A side value is '>dd' time, expires and the record. A record starts with its flags (record.ts).
  A ref is 24 hex digits: inverted level, ms, sequence, index. It sorts by original position.
]]
local base = KEYS[1]
local call = redis.call
local LOG, SIDE, READY, DUE = base .. 'log', base .. 'side', base .. 'ready', base .. 'due'
local HELD, DEAD, TALLY = base .. 'held', base .. 'dead', base .. 'tally'
local META, WAITING = base .. 'meta', base .. 'waiting'
local HEADS, PARKED, PARTIAL = base .. 'heads', base .. 'parked', base .. 'partial'
local CONSUMERS, TAGS = base .. 'consumers', base .. 'tags'
local GROUP = 'delivery'
local BATCH_HEADER = 27
local VALUE_HEADER = 16

-- Redis's clock in ms: the only time that decides anything.
local function clock()
  local time = call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function logOf(level)
  return level == 0 and LOG or LOG .. ':' .. level
end

local function partialOf(level, id)
  return level == 0 and id or level .. ':' .. id
end

local function refOf(level, id, index)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return string.format('%x%012x%08x%03x', 9 - level, tonumber(ms), tonumber(seq), index)
end

-- Where a ref says that its message was stored: level, entry id, index in the batch.
local function placeOf(ref)
  local id = string.format('%d-%d', tonumber(string.sub(ref, 2, 13), 16),
    tonumber(string.sub(ref, 14, 21), 16))
  return 9 - tonumber(string.sub(ref, 1, 1), 16), id, tonumber(string.sub(ref, 22, 24), 16)
end

-- A command that takes any number of arguments, in calls that Lua's stack can hold.
local function callMany(command, key, args)
  for at = 1, #args, 1000 do
    call(command, key, unpack(args, at, math.min(at + 999, #args)))
  end
end

-- One hint to one slot that waits. Hints may be lost: an idle slot also looks by itself.
local function wake()
  local slot = call('SPOP', WAITING)
  if slot then
    call('PUBLISH', 'sluice:wake:' .. slot, base)
  end
end

-- Whether a call of a slot comes late. A process begins a new round when a reply is lost: a call of
-- an earlier one was given up on, and what it would bring nobody would know of.
local function comesLate(slot, round)
  local field = 'r:' .. slot
  local known = tonumber(call('HGET', META, field) or 0)
  if round > known and call('HEXISTS', META, 'epoch') == 1 then
    call('HSET', META, field, round)
  end
  return round < known
end

-- Counter changes of this call, written once by commit(). 'ready' counts unread, ready and parked
-- messages, 'bytes' their record bytes.
local delta = {}
local stirred = false
local opened = false -- a key went on to its next message
local fields = {} -- further fields of meta and their values, written with the counters
local function count(name, by)
  delta[name] = (delta[name] or 0) + by
end

-- One message more that is deliverable, or one fewer, -1; by its side value.
local function countReady(by, value)
  count('ready', by)
  count('bytes', by * (#value - VALUE_HEADER))
end

-- Writes the counters; wakes a waiting slot when something became deliverable.
local function commit()
  local names = {}
  for name, by in pairs(delta) do
    if by ~= 0 then
      names[#names + 1] = name
    end
  end
  if #names > 0 then
    local values = call('HMGET', META, unpack(names))
    for i, name in ipairs(names) do
      fields[#fields + 1], fields[#fields + 2] = name, (values[i] or 0) + delta[name]
    end
  end
  if #fields > 0 then
    call('HSET', META, unpack(fields))
  end
  delta, fields = {}, {}
  if stirred then
    wake()
  end
end

-- Tells the reapers that this queue has something to do at `at`, unless they know of an earlier time.
local announced -- what they know of: nil = not read, false = nothing
local function announce(at)
  if announced == nil then
    announced = tonumber(call('HGET', META, 'next') or nil) or false
  end
  if not announced or at < announced then
    announced = at
    call('HSET', META, 'next', at)
    call('PUBLISH', 'sluice:agenda', base .. ' ' .. string.format('%d', at))
  end
end

-- The ordering key of a record that starts at `at` in `bytes`; '' = none.
local function orderingKey(bytes, at)
  local flags = string.byte(bytes, at)
  if bit.band(flags, 4) == 0 then
    return ''
  end
  local start = at + 1 + (bit.band(flags, 2) ~= 0 and 6 or 0)
  return string.sub(bytes, start + 1, start + string.byte(bytes, start))
end

-- A record's own time to live in ms, or nil.
local function ttlOf(bytes, at)
  if bit.band(string.byte(bytes, at), 2) == 0 then
    return nil
  end
  return (struct.unpack('>I6', bytes, at + 1))
end

-- How long a message with this time to live stays, ms. One of 0 is stored only where somebody
-- waits for it (append.lua), who gets that long: a hint may be lost, and is made up for in 1 s.
local function lifetime(ttl)
  return ttl == 0 and 1000 or ttl
end

-- When a record expires: the earlier of its own and the queue's time, 0 = never.
local function expiryOf(bytes, at, time, queueExpires)
  local ttl = ttlOf(bytes, at)
  if not ttl then
    return queueExpires
  end
  local expires = time + lifetime(ttl)
  return queueExpires == 0 and expires or math.min(queueExpires, expires)
end

-- A tally: deliveries so far, failures so far, why it died, who held it, the last error.
local function parseTally(text)
  if not text then
    return 0, 0, '', '', ''
  end
  local acquired, failed, reason, holder, failure =
    string.match(text, '^(%d+) (%d+) (%S*) ([^\n]*)\n(.*)$')
  return tonumber(acquired), tonumber(failed), reason, holder, failure
end

local function readTally(ref)
  return parseTally(call('HGET', TALLY, ref))
end

local function tallyText(acquired, failed, reason, holder, failure)
  return acquired .. ' ' .. failed .. ' ' .. reason .. ' ' .. holder .. '\n' .. failure
end

-- Options that every queue script takes in ARGV: 'levels ordered deadLetters deliveryLimit'.
local levels, ordered, deadLetters, deliveryLimit = 1, false, 'queue', -1
local function options(text)
  local a, b, c, d = string.match(text, '^(%d+) (%d) (%a+) (-?%d+)$')
  levels, ordered, deadLetters, deliveryLimit = tonumber(a), b == '1', c, tonumber(d)
end

local function parkedOf(key, ref)
  return string.char(#key) .. key .. ref
end

-- Ordering keys: makes the next message of a key deliverable once `ref`, its head, has left.
local function openKey(key, ref)
  if key == '' or call('HGET', HEADS, key) ~= ref then
    return
  end
  local nextParked = call(
    'ZRANGEBYLEX', PARKED, '[' .. parkedOf(key, ''), '(' .. parkedOf(key, '~'), 'LIMIT', 0, 1)[1]
  if not nextParked then
    call('HDEL', HEADS, key)
    return
  end
  local nextRef = string.sub(nextParked, -24)
  call('ZREM', PARKED, nextParked)
  call('HSET', HEADS, key, nextRef)
  call('ZADD', READY, 0, nextRef)
  stirred, opened = true, true
end

-- Makes a side message deliverable: ready, or parked behind the head of its ordering key.
local function makeReady(ref, value)
  if ordered then
    local key = orderingKey(value, VALUE_HEADER + 1)
    if key ~= '' and call('HSETNX', HEADS, key, ref) == 0 and call('HGET', HEADS, key) ~= ref then
      call('ZADD', PARKED, 0, parkedOf(key, ref))
      return
    end
  end
  call('ZADD', READY, 0, ref)
  stirred = true
end

-- Forgets a side message that is settled or dropped. `ref` is in no zset any more.
local function forget(ref, value)
  call('HDEL', SIDE, ref)
  call('HDEL', TALLY, ref)
  if ordered then
    openKey(orderingKey(value, VALUE_HEADER + 1), ref)
  end
end

-- Ends a side message for `reason`: on its way to the dead letters, or dropped where the queue has
-- no dead letter exchange and the reason is a limit its owner set. `ref` is in no zset any more.
local function doom(ref, value, reason, holder, failure)
  local limit = reason == 'expired' or reason == 'maxlen'
  if reason == 'expired' then
    count('expired', 1)
  end
  if deadLetters == 'none' or (limit and deadLetters ~= 'exchange') then
    count('dropped', 1)
    forget(ref, value)
    return
  end
  local acquired, failed, _, lastHolder, lastFailure = readTally(ref)
  holder = holder ~= '' and holder or lastHolder
  failure = failure ~= '' and failure or lastFailure
  call('HSET', SIDE, ref, value)
  call('HSET', TALLY, ref, tallyText(acquired, failed, reason, holder, failure))
  call('ZADD', DEAD, 0, ref)
  count('dead', 1)
  if ordered then
    openKey(orderingKey(value, VALUE_HEADER + 1), ref)
  end
  announce(0)
end

-- Whether every log has its group. An operator may have destroyed one, or deleted a log: create.lua
-- mends that, and a script that needs them answers 'missing' before it changes anything.
local function isWhole()
  for level = 0, levels - 1 do
    if redis.pcall('XPENDING', logOf(level), GROUP, '+', '-', 1).err then
      return false
    end
  end
  return true
end

-- Entries from `from` to `to` that are pending for a slot, or for any: at most `most`. None where
-- there is no group.
local function pendingOf(level, from, to, most, ...)
  local reply = redis.pcall('XPENDING', logOf(level), GROUP, from, to, most, ...)
  return reply.err and {} or reply
end

-- The fields of a batch's header.
local function batchHeader(blob)
  local _, records, time, soonest, expires = struct.unpack('>BHddd', blob)
  return records, time, soonest, expires
end

-- Calls visit(index, value) for each record still in a batch, as a side value; with `wanted`, for
-- those whose index it has.
local function eachRecord(blob, bitmap, visit, wanted)
  local records, time, _, expires = batchHeader(blob)
  local at = BATCH_HEADER + 1
  for index = 0, records - 1 do
    local size = struct.unpack('>I4', blob, at)
    local mask = bitmap and string.byte(bitmap, math.floor(index / 8) + 1) or 0
    local gone = bit.band(mask, bit.lshift(1, index % 8)) ~= 0
    if not gone and (not wanted or wanted[index]) then
      local value = struct.pack('>dd', time, expiryOf(blob, at + 4, time, expires))
        .. string.sub(blob, at + 4, at + 3 + size)
      visit(index, value)
    end
    at = at + 4 + size
  end
end

-- How many records a bitmap of `partial` names.
local function popcount(bitmap)
  local total = 0
  for i = 1, #bitmap do
    local byte = string.byte(bitmap, i)
    while byte > 0 do
      total = total + byte % 2
      byte = math.floor(byte / 2)
    end
  end
  return total
end

local function expiresOf(value)
  local _, expires = struct.unpack('>dd', value)
  return expires
end

-- Takes the next unread batch of a level out of the log for good and gives its records to
-- visit(ref, value) one by one. False when nothing is unread, or there is no group.
local function splitNext(level, visit)
  local reply = redis.pcall(
    'XREADGROUP', 'GROUP', GROUP, 'split', 'COUNT', 1, 'NOACK', 'STREAMS', logOf(level), '>')
  if not reply or reply.err then
    return false
  end
  local entry = reply[1][2][1]
  local id, field = entry[1], partialOf(level, entry[1])
  local bitmap = call('HGET', PARTIAL, field)
  eachRecord(entry[2][2], bitmap, function(index, value)
    visit(refOf(level, id, index), value)
  end)
  if bitmap then
    call('HDEL', PARTIAL, field)
  end
  call('XDEL', logOf(level), id)
  return true
end

-- The first ready messages of a level, at most `limit`: refs in the order they are delivered.
local function readyRefs(level, limit)
  if levels == 1 then
    return call('ZRANGE', READY, 0, limit - 1)
  end
  local digit = string.format('%x', 9 - level)
  return call('ZRANGEBYLEX', READY, '[' .. digit, '(' .. digit .. '~', 'LIMIT', 0, limit)
end

-- The entry of a log that was read last, '0-0' = none yet; nil where there is no group.
local function lastDelivered(level)
  for _, group in ipairs(call('XINFO', 'GROUPS', logOf(level))) do
    for i = 1, #group, 2 do
      if group[i] == 'last-delivered-id' then
        return group[i + 1]
      end
    end
  end
end

-- The first unread batch of a level, or nil.
local function headOf(level)
  local last = lastDelivered(level)
  return last and call('XRANGE', logOf(level), '(' .. last, '+', 'COUNT', 1)[1]
end

-- Drops ready messages while there are more than the limits allow (-1 = none), about `most` of them:
-- the oldest of the lowest level that has any. Counts are of before the call. True when it stopped
-- short of the limits.
local function dropHead(ready, bytes, maxLength, maxBytes, most)
  local dropped = 0
  local function over()
    return (maxLength >= 0 and ready > maxLength) or (maxBytes >= 0 and bytes > maxBytes)
  end
  local function drop(ref, value)
    local size = #value - VALUE_HEADER
    ready, bytes, dropped = ready - 1, bytes - size, dropped + 1
    countReady(-1, value)
    doom(ref, value, 'maxlen', '', '')
  end
  local function split(level)
    return splitNext(level, function(ref, value)
      if over() then
        drop(ref, value)
      else
        call('HSET', SIDE, ref, value)
        makeReady(ref, value)
      end
    end)
  end
  while over() do
    if dropped >= most then
      return true
    end
    local found = false
    for level = 0, levels - 1 do
      local ref = not found and readyRefs(level, 1)[1]
      if ref then
        call('ZREM', READY, ref)
        drop(ref, call('HGET', SIDE, ref))
      end
      found = found or ref or split(level)
    end
    if not found then
      -- Only messages behind a held head of their ordering key are left.
      local parked = call('ZRANGE', PARKED, 0, 0)[1]
      if not parked then
        return false
      end
      call('ZREM', PARKED, parked)
      local ref = string.sub(parked, -24)
      drop(ref, call('HGET', SIDE, ref))
    end
  end
  return false
end

-- Drops from the head what is too much by `limits`, 'maxLength maxBytes overflow' or '' = none, where
-- that is how the queue keeps them. True when it stopped after about `most`.
local function trim(limits, most)
  local maxLength, maxBytes, overflow = string.match(limits, '^(-?%d+) (-?%d+) (%S+)$')
  if overflow ~= 'drop-head' then
    return false
  end
  local counts = call('HMGET', META, 'ready', 'bytes')
  local ready, bytes = (counts[1] or 0) + (delta.ready or 0), (counts[2] or 0) + (delta.bytes or 0)
  return dropHead(ready, bytes, tonumber(maxLength), tonumber(maxBytes), most)
end

-- The same for messages that came back: they are at the head. A later sweep does what is left.
local function trimReturned(limits, messages)
  if (delta.ready or 0) > 0 and trim(limits, messages + 1024) then
    announce(0)
  end
end

-- Puts due messages and lapsed leases back, at most `limit` of each. A lapse is a failed delivery.
local function release(now, limit)
  for _, ref in ipairs(call('ZRANGEBYSCORE', DUE, '-inf', now, 'LIMIT', 0, limit)) do
    local value = call('HGET', SIDE, ref)
    call('ZREM', DUE, ref)
    count('delayed', -1)
    countReady(1, value)
    makeReady(ref, value)
  end
  for _, ref in ipairs(call('ZRANGEBYSCORE', HELD, 1, now, 'LIMIT', 0, limit)) do
    local value = call('HGET', SIDE, ref)
    local acquired, failed, _, holder, failure = readTally(ref)
    call('ZREM', HELD, ref)
    count('unacked', -1)
    call('HSET', TALLY, ref, tallyText(acquired, failed + 1, '', holder, failure))
    if deliveryLimit >= 0 and failed + 1 > deliveryLimit then
      doom(ref, value, 'delivery_limit', holder, failure)
    else
      countReady(1, value)
      makeReady(ref, value)
    end
  end
end

-- The single active consumer: `active` while it is attached, else the one that came first, which is
-- woken. Returns its id.
local function passOn(active)
  if active and call('HEXISTS', CONSUMERS, active) == 1 then
    return active
  end
  local first, firstOrder, firstSlot
  local consumers = call('HGETALL', CONSUMERS)
  for i = 1, #consumers, 2 do
    local slot, order = string.match(consumers[i + 1], '^(%S+) (%d+)')
    if not firstOrder or tonumber(order) < firstOrder then
      first, firstOrder, firstSlot = consumers[i], tonumber(order), slot
    end
  end
  if first then
    call('HSET', META, 'active', first)
    call('PUBLISH', 'sluice:wake:' .. firstSlot, base)
  else
    call('HDEL', META, 'active')
  end
  return first
end
