--[[
  create: make an empty queue. Repeating it changes nothing, but counts as use (x-expires), and
  mends a queue whose logs lost their consumer groups, or that lost a log itself.

  Mending reads the queue whole. What was pending was read first, so of a log without group the
  newest entries, as many messages as count as unread, are unread; those before are handed to slot
  0, which is always dead: whoever reclaims it makes them ready again, flagged redelivered. Then the
  counters are what counting gives, and what is not there any more counts as dropped.

  ARGV[1] options  see prelude
  ARGV[2] epoch    the topology version that declared the queue

  Returns {'created'} or {'exists'}
       or {'mended', lost}: how many messages were not there any more
       or {'gone'}: this queue was deleted, or a later one has its name
]]
options(ARGV[1])
local epoch = tonumber(ARGV[2])

-- Messages still in a batch, and their record bytes.
local function weigh(level, entry)
  local records, bytes = 0, 0
  eachRecord(entry[2][2], call('HGET', PARTIAL, partialOf(level, entry[1])), function(_, value)
    records, bytes = records + 1, bytes + #value - VALUE_HEADER
  end)
  return records, bytes
end

-- Record bytes of the side messages whose refs end the members of a sorted set.
local function weighSide(key)
  local bytes = 0
  for from = 0, call('ZCARD', key) - 1, 1000 do
    for _, member in ipairs(call('ZRANGE', key, from, from + 999)) do
      bytes = bytes + call('HSTRLEN', SIDE, string.sub(member, -24)) - VALUE_HEADER
    end
  end
  return bytes
end

-- Calls visit(entry) for each entry of a log.
local function eachEntry(level, visit)
  local from = '-'
  while true do
    local page = call('XRANGE', logOf(level), from, '+', 'COUNT', 16)
    for _, entry in ipairs(page) do
      visit(entry)
    end
    if #page < 16 then
      return
    end
    from = '(' .. page[#page][1]
  end
end

local function mend()
  local counts = call('HMGET', META, 'ready', 'unacked')
  local inSide = call('ZCARD', READY) + call('ZCARD', PARKED)
  local unread, unacked = 0, call('ZCARD', HELD)
  local bytes = weighSide(READY) + weighSide(PARKED)
  local broken, present = {}, {}
  for level = 0, levels - 1 do
    local last = call('EXISTS', logOf(level)) == 1 and lastDelivered(level)
    local log = {level = level, records = 0}
    eachEntry(level, function(entry)
      local records, size = weigh(level, entry)
      present[partialOf(level, entry[1])] = true
      if last and refOf(level, entry[1], 0) <= refOf(level, last, 0) then
        unacked = unacked + records
      else
        log.records, bytes = log.records + records, bytes + size
      end
    end)
    if last then
      unread = unread + log.records
    else
      broken[#broken + 1] = log
    end
  end
  local newest = math.max(0, counts[1] - inSide - unread)
  for _, log in ipairs(broken) do
    call('XGROUP', 'CREATE', logOf(log.level), GROUP, '0', 'MKSTREAM')
    while log.records > newest do
      local read = call('XREADGROUP', 'GROUP', GROUP, 'd0', 'COUNT', 1, 'STREAMS',
        logOf(log.level), '>')
      local records, size = weigh(log.level, read[1][2][1])
      log.records, bytes, unacked = log.records - records, bytes - size, unacked + records
    end
    newest, unread = newest - log.records, unread + log.records
  end
  for _, field in ipairs(call('HKEYS', PARTIAL)) do
    if not present[field] then
      call('HDEL', PARTIAL, field)
    end
  end
  local lost = counts[1] + (counts[2] or 0) - inSide - unread - unacked
  call('HSET', META, 'ready', inSide + unread, 'unacked', unacked, 'bytes', bytes)
  call('HINCRBY', META, lost > 0 and 'dropped' or 'published', math.abs(lost))
  return lost
end

local known = tonumber(call('HGET', META, 'epoch') or nil)
if known and known > epoch then
  return {'gone'}
end
if known == epoch then
  if call('HEXISTS', META, 'gone') == 1 then
    return {'gone'}
  end
  call('HSET', META, 'used', clock())
  if not isWhole() then
    return {'mended', mend()}
  end
  return {'exists'}
end
call('UNLINK', META, SIDE, READY, DUE, HELD, DEAD, TALLY, WAITING, HEADS, PARKED, PARTIAL,
  CONSUMERS, TAGS)
for level = 0, 9 do
  call('UNLINK', logOf(level))
end
for level = 0, levels - 1 do
  call('XGROUP', 'CREATE', logOf(level), GROUP, '0', 'MKSTREAM')
end
call('HSET', META, 'epoch', ARGV[2], 'ready', 0, 'bytes', 0, 'published', 0, 'used', clock())
return {'created'}
