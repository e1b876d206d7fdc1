--[[
  sweep: one bounded pass over what time changes in a queue, whoever consumes it.

  Releases due messages, takes lapsed leases back, and moves expired messages at the head to the
  dead letters (as RabbitMQ does, a message behind one that lives longer waits to reach the head).
  A queue that is longer than its limit, since that was lowered, loses its oldest messages.
  Any number of reapers may run it at once.

  ARGV[1] options  see prelude
  ARGV[2] epoch    the queue's
  ARGV[3] limit    most messages of each kind
  ARGV[4] limits   'maxLength maxBytes overflow', -1 = none, or ''

  Returns {'ok', nextMs, dead, unusedMs}: ms until there is something to do, -1 = nothing in sight;
          dead letters waiting; ms since a consumer last asked
       or {'gone'} or {'missing'}
]]
options(ARGV[1])
local meta = call('HMGET', META, 'epoch', 'gone', 'used')
if meta[1] ~= ARGV[2] or meta[2] then
  return {meta[1] and tonumber(meta[1]) >= tonumber(ARGV[2]) and 'gone' or 'missing'}
end
if not isWhole() then
  return {'missing'}
end
local limit = tonumber(ARGV[3])
local now = clock()
call('HDEL', META, 'next')
release(now, limit)

local function expire(ref, value)
  countReady(-1, value)
  doom(ref, value, 'expired', '', '')
end

local soonest
local function note(at)
  if at and at ~= 0 then
    soonest = math.min(soonest or at, at)
  end
end

-- The head of what came back, level by level, message by message until one lives.
for level = 0, levels - 1 do
  local heads = readyRefs(level, limit)
  local values = #heads > 0 and call('HMGET', SIDE, unpack(heads))
  local living
  for i, ref in ipairs(heads) do
    local expires = expiresOf(values[i])
    if expires == 0 or expires > now then
      living = expires
      break
    end
    call('ZREM', READY, ref)
    expire(ref, values[i])
  end
  note(living or (#heads > 0 and now)) -- all of them expired: there may be more
end

-- The head of each log, batch by batch until one holds nothing that expired.
for level = 0, levels - 1 do
  local expired = 0
  while expired < limit and call('EXISTS', logOf(level)) == 1 do
    local entry = headOf(level)
    local records, _, first = 0, 0, 0
    if entry then
      records, _, first = batchHeader(entry[2][2])
    end
    if not entry or first == 0 or first > now then
      note(first)
      break
    end
    splitNext(level, function(ref, value)
      local expires = expiresOf(value)
      if expires ~= 0 and expires <= now then
        expire(ref, value)
      else
        call('HSET', SIDE, ref, value)
        makeReady(ref, value)
        note(expires)
      end
    end)
    expired = expired + records
  end
  if expired >= limit then
    note(now)
  end
end

if trim(ARGV[4], limit) then
  note(now)
end

note(tonumber(call('ZRANGE', DUE, 0, 0, 'WITHSCORES')[2]))
note(tonumber(call('ZRANGEBYSCORE', HELD, 1, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]))
local claimed = tonumber(call('ZRANGE', DEAD, 0, 0, 'WITHSCORES')[2])
note(claimed and math.max(claimed, 1)) -- 0 = never claimed
commit()
local dead = call('ZCARD', DEAD)
if soonest then
  call('HSET', META, 'next', soonest)
else
  call('HDEL', META, 'next') -- what died in this pass announced itself
end
local unused = call('EXISTS', CONSUMERS) == 1 and 0 or now - tonumber(meta[3] or now)
return {'ok', soonest and math.max(0, soonest - now) or -1, dead, unused}
