--[[
  pick: lease one particular message, wherever it waits: ready, delayed, parked or unread.

  Used to move single dead letters. Order is kept for the others: a record picked out of an unread
  batch is marked in `partial`, and the batch stays where it is.

  ARGV[1] options  see prelude
  ARGV[2] ref      the message's
  ARGV[3] leaseMs  how long the lease lasts
  ARGV[4] holder   kept with it; no line feed

  Returns {'ok', acquired, failed, value}
       or {'missing'}: no such message, or somebody holds it, or it has expired: then it is dead
]]
options(ARGV[1])
local ref, now = ARGV[2], clock()

local function fromSide()
  local value = call('HGET', SIDE, ref)
  if not value then
    return nil
  end
  if call('ZREM', READY, ref) == 1 then
    count('ready', -1)
    count('bytes', VALUE_HEADER - #value)
  elseif call('ZREM', DUE, ref) == 1 then
    count('delayed', -1)
  elseif ordered and call('ZREM', PARKED, parkedOf(orderingKey(value, VALUE_HEADER + 1), ref)) == 1 then
    count('ready', -1)
    count('bytes', VALUE_HEADER - #value)
  else
    return nil
  end
  return value
end

local function fromLog()
  local level, id, index = placeOf(ref)
  local log, field = logOf(level), partialOf(level, id)
  local entry = call('XRANGE', log, id, id)[1]
  if not entry or not isWhole() or #pendingOf(level, id, id, 1) > 0 then
    return nil
  end
  local bitmap = call('HGET', PARTIAL, field)
  local found, others = nil, 0
  eachRecord(entry[2][2], bitmap, function(i, value)
    if i == index then
      found = value
    else
      others = others + 1
    end
  end)
  if not found then
    return nil
  end
  if others == 0 then
    call('XDEL', log, id)
    call('HDEL', PARTIAL, field)
  else
    bitmap = bitmap or string.rep('\0', math.ceil(batchHeader(entry[2][2]) / 8))
    local byte = math.floor(index / 8) + 1
    bitmap = string.sub(bitmap, 1, byte - 1)
      .. string.char(bit.bor(string.byte(bitmap, byte), bit.lshift(1, index % 8)))
      .. string.sub(bitmap, byte + 1)
    call('HSET', PARTIAL, field, bitmap)
  end
  call('HSET', SIDE, ref, found)
  count('ready', -1)
  count('bytes', VALUE_HEADER - #found)
  return found
end

if not string.match(ref, '^[0-9a-f]+$') or #ref ~= 24 then
  return {'missing'}
end
local value = fromSide() or fromLog()
if not value then
  return {'missing'}
end
local expires = expiresOf(value)
if expires ~= 0 and expires <= now then
  doom(ref, value, 'expired', '', '')
  commit()
  return {'missing'}
end
local acquired, failed, reason, _, failure = readTally(ref)
call('HSET', TALLY, ref, tallyText(acquired + 1, failed, reason, ARGV[4], failure))
call('ZADD', HELD, now + tonumber(ARGV[3]), ref)
count('unacked', 1)
count(acquired > 0 and 'redelivered' or 'delivered', 1)
commit()
announce(now + tonumber(ARGV[3]))
return {'ok', acquired + 1, failed, value}
