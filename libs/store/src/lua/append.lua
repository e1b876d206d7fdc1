--[[
  append: store up to 128 messages, in order, as one stream entry a priority level.

  Stored exactly once: a repeated call with the same writer and sequence answers what the first one
  answered and stores nothing; so does one that arrives after a later call of its writer, out of a
  connection that was given up on. Limits and de-duplication hold for each message on its own; a
  refused message leaves no de-duplication id behind.

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
  ARGV[11] extras   '' or per message '>BI6Bc0': level, delay in ms, de-duplication id

  Returns {'stored'}: all of them
       or {'mixed', outcomes}: a letter a message, s(tored), d(uplicate) or f(ull)
       or {'late'}: the writer had its answer long ago
       or {'gone'}: the queue was deleted
       or {'missing'}: the queue has no keys yet
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
local queueExpires = queueTtl >= 0 and now + queueTtl or 0
local soonest = soonestTtl >= 0 and now + soonestTtl or 0
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

if ARGV[11] == '' and fits then
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
local rejects = overflow == 'reject-publish' or overflow == 'reject-publish-dlx'
local window = tonumber(ARGV[10])
local bucket = math.floor(now / window)
local dedup = base .. 'dedup:' .. ARGV[2] .. ':'
local ids, seen = {}, {}
local byLevel, later, refused = {}, {}, {}
local outcomes = {}
local at, extraAt = 1, 1

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
  if id ~= '' and isDuplicate(id) then
    outcomes[i] = 'd'
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
    if delay > 0 then
      later[#later + 1] = {level, delay, record}
    else
      ready, bytes = ready + 1, bytes + length
      local list = byLevel[level] or {}
      byLevel[level] = list
      list[#list + 1] = struct.pack('>I4', length) .. record
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
local mixed = string.find(letters, '[df]')
call('HSET', META, writerField, mixed and sequence .. ' ' .. letters or sequence)
if ready > 0 then
  wake()
end
if soonest ~= 0 then
  announce(soonest)
end
return mixed and {'mixed', letters} or {'stored'}
