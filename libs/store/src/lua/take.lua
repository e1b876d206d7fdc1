--[[
  take: hand up to `credit` messages to a slot, or lease them.

  Order: priority levels from the top; within one, messages that came back before unread ones. A
  slot gets a whole batch while it fits its credit, pending in its name, and single messages
  otherwise; a lease is always single. A batch that does not fit is split: what the credit leaves
  becomes ready for anyone. Due messages are released and lapsed leases taken back on the way.
  Expired messages are met here and go to the dead letters. A reply holds about `bytesMax` at most,
  but always one message when there is one.

  ARGV[1] options  see prelude
  ARGV[2] epoch    the queue's
  ARGV[3] slot     the caller's name, e.g. d12
  ARGV[4] credit   most messages; 0 = only pass a wake-up on
  ARGV[5] leaseMs  0 = held by the slot until it settles or dies; else a lease that long
  ARGV[6] holder   kept with a leased message to tell who had it; no line feed
  ARGV[7] wait     joins the waiting slots: 0 = never, 1 = when there is nothing, 2 = in any case,
                   3 = when the credit was more than there is
  ARGV[8] bytesMax the reply's bytes after which no further message is added
  ARGV[9] round    of the caller, see comesLate

  Returns {'ok', wakeMs, handed, joined, batches, level, id, blob, after, ...,
           ref, acquired, failed, value, ...}:
          `batches` whole batches, then single messages, each in order; `after`: how many of the
          singles come before the batch. wakeMs: until the next due time, -1 = none. handed:
          deliveries of this queue so far, these included. joined: 1 = the slot waits now
       or {'gone'} or {'missing'}, as append does
       or {'late'}: the caller gave up on it, and holds nothing by it
]]
options(ARGV[1])
local meta = call('HMGET', META, 'epoch', 'gone', 'bytes', 'next', 'ready', 'delivered',
  'redelivered')
if meta[1] ~= ARGV[2] or meta[2] then
  return {meta[1] and tonumber(meta[1]) >= tonumber(ARGV[2]) and 'gone' or 'missing'}
end
local slot, credit, leaseMs = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
if comesLate(slot, tonumber(ARGV[9])) then
  return {'late'}
end
if not isWhole() then
  return {'missing'}
end
local slotNumber = tonumber(string.sub(slot, 2))
local now = clock()
local deadline = leaseMs > 0 and now + leaseMs or -slotNumber
local holder = leaseMs > 0 and ARGV[6] or slot
local left, budget = credit, tonumber(ARGV[8])
local roomy = tonumber(meta[3]) <= budget
local taken, singles = {}, {}
local batches, fresh, bytes = 0, 0, 0 -- whole batches, their records and record bytes
local heldArgs, tallyArgs = {}, {}

-- Writes gathered over the whole call, one command each at the end.
local sideArgs, readyArgs = {}, {}

local function push(args, a, b)
  local n = #args
  args[n + 1], args[n + 2] = a, b
end

local function hold(ref, value, tally)
  local acquired, failed, reason, _, failure = parseTally(tally)
  acquired = acquired + 1
  push(heldArgs, deadline, ref)
  push(tallyArgs, ref, tallyText(acquired, failed, reason, holder, failure))
  local n = #singles
  singles[n + 1], singles[n + 2], singles[n + 3], singles[n + 4] = ref, acquired, failed, value
  budget = budget - #value
  left = budget > 0 and left - 1 or 0
  count('bytes', VALUE_HEADER - #value)
  count(acquired > 1 and 'redelivered' or 'delivered', 1)
end

-- Bounded: a whole log may have expired, or wait behind one busy ordering key.
local unfinished, expirable = false, 1024

local function expire(ref, value)
  expirable = expirable - 1
  countReady(-1, value)
  doom(ref, value, 'expired', '', '')
end

local function isExpired(value)
  local expires = expiresOf(value)
  return expires ~= 0 and expires <= now
end

-- How many of the refs at the head the budget covers.
local function affordable(refs)
  local size = 0
  for i, ref in ipairs(refs) do
    size = size + call('HSTRLEN', SIDE, ref)
    if size > budget and (i > 1 or #singles > 0 or batches > 0) then
      return i - 1
    end
  end
  return #refs
end

-- An expired message of a lower level may open its key to one of a higher, which goes first then.
local function reorders()
  return opened and levels > 1
end

-- Ready messages of a level, up to the credit. Expired ones met on the way use no credit.
local function takeReady(level)
  while left > 0 and expirable > 0 and not reorders() do
    local refs = readyRefs(level, math.min(left, 256))
    if #refs == 0 then
      return
    end
    local covered = roomy and #refs or affordable(refs)
    if covered == 0 then
      left = 0
      return
    end
    refs = {unpack(refs, 1, covered)}
    call('ZREM', READY, unpack(refs))
    local values = call('HMGET', SIDE, unpack(refs))
    local tallies = call('HMGET', TALLY, unpack(refs))
    for i, ref in ipairs(refs) do
      if reorders() then
        call('ZADD', READY, 0, ref)
      elseif isExpired(values[i]) then
        expire(ref, values[i])
      else
        hold(ref, values[i], tallies[i])
      end
    end
  end
end

-- Puts a record that leaves the log into the side store: held while credit lasts, else ready.
local function settleIn(ref, value)
  if isExpired(value) then
    expire(ref, value)
    return
  end
  if ordered then
    call('HSET', SIDE, ref, value)
    makeReady(ref, value)
    return
  end
  push(sideArgs, ref, value)
  if left > 0 then
    hold(ref, value, false)
  else
    push(readyArgs, 0, ref)
  end
end

-- Whole batches of a level for the slot; splits one that does not fit or holds expired records.
-- Batches are about as large as the last one: one that will not fit what is left of the credit
-- waits for the next take, since a split costs some ten times a whole batch. Lower levels wait too.
local waits = false
local function takeBatches(level)
  local log = logOf(level)
  local size = left
  local picked = call('EXISTS', PARTIAL) == 1
  while budget > 0 and expirable > 0 and (left == credit or (left > 0 and left >= size)) do
    if fresh > 0 and fresh + #singles / 4 >= meta[5] + (delta.ready or 0) then
      return -- that was all: another look would find nothing
    end
    local reply = call('XREADGROUP', 'GROUP', GROUP, slot, 'COUNT',
      math.max(1, math.min(64, math.floor(left / size))), 'STREAMS', log, '>')
    if not reply then
      return
    end
    for _, entry in ipairs(reply[1][2]) do
      local id, blob = entry[1], entry[2][2]
      local records, _, soonest = batchHeader(blob)
      local bitmap = picked and call('HGET', PARTIAL, partialOf(level, id))
      if records <= left and not bitmap and (soonest == 0 or soonest > now) then
        batches = batches + 1
        local n = #taken
        taken[n + 1], taken[n + 2], taken[n + 3], taken[n + 4] = level, id, blob, #singles / 4
        left = left - records
        size = records
        fresh = fresh + records
        budget = budget - #blob
        bytes = bytes + #blob - BATCH_HEADER - 4 * records
      else
        eachRecord(blob, bitmap, function(index, value)
          settleIn(refOf(level, id, index), value)
        end)
        if bitmap then
          call('HDEL', PARTIAL, partialOf(level, id))
        end
        size = records
        call('XACK', log, GROUP, id)
        call('XDEL', log, id)
      end
    end
  end
  waits = left > 0 and left < size and (level == 0 or headOf(level) ~= nil)
end

local function takeSplit(level)
  local vain = 0
  while left > 0 and not reorders() do
    if vain == 16 or expirable <= 0 then
      unfinished = true
      return
    end
    local before = left
    if not splitNext(level, settleIn) then
      return
    end
    if ordered then
      takeReady(level)
    end
    vain = left < before and 0 or vain + 1
  end
end

announced = tonumber(meta[4] or nil) or false
if announced and announced <= now then
  release(now, 256)
end
local function takeLevels()
  opened = false
  for level = levels - 1, 0, -1 do
    if waits or unfinished or reorders() then
      return
    end
    takeReady(level)
    if left > 0 and not reorders() then
      if leaseMs > 0 or ordered then
        takeSplit(level)
      else
        takeBatches(level)
      end
    end
  end
end
takeLevels()
while reorders() and left > 0 and not unfinished do
  takeLevels()
end

unfinished = unfinished or (expirable <= 0 and left > 0)
if budget <= 0 then
  left = 0
end

callMany('HSET', SIDE, sideArgs)
callMany('ZADD', READY, readyArgs)
callMany('ZADD', HELD, heldArgs)
callMany('HSET', TALLY, tallyArgs)
if leaseMs > 0 and #heldArgs > 0 then
  announce(deadline)
end
local handed = fresh + #heldArgs / 2
count('ready', -handed)
count('unacked', handed)
count('delivered', fresh)
count('bytes', -bytes)
if credit > 0 then
  fields = {'used', now}
end
local ready = meta[5] + (delta.ready or 0)
local deliveries = (meta[6] or 0) + (meta[7] or 0) + handed
stirred = false -- what became ready and was not taken is told of below
commit()

local joins = ARGV[7] == '2' or (ARGV[7] ~= '0' and left == credit)
  or (ARGV[7] == '3' and left > 0 and not waits and not unfinished)
if joins then
  call('SADD', WAITING, slot)
end
if (left == 0 or waits) and ready > 0 then
  wake() -- more is left: pass the wake-up on
end

local wakeMs = -1
if unfinished then
  wakeMs = 0
elseif left > 0 then
  local due = call('ZRANGE', DUE, 0, 0, 'WITHSCORES')[2]
  if due then
    wakeMs = math.max(0, tonumber(due) - now)
  end
end
local reply = {'ok', wakeMs, deliveries, joins and 1 or 0, batches}
for i = 1, #taken do
  reply[#reply + 1] = taken[i]
end
for i = 1, #singles do
  reply[#reply + 1] = singles[i]
end
return reply
