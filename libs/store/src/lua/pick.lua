--[[
  pick: lease particular messages, wherever they wait: ready, delayed, parked or unread.

  Used to move single dead letters. Order is kept for the others: a record picked out of an unread
  batch is marked in `partial`, and the batch stays where it is. Neighbours of one batch are picked
  in one pass over it.

  ARGV[1] options  see prelude
  ARGV[2] leaseMs  how long the leases last
  ARGV[3] holder   kept with them; no line feed
  ARGV[4] ...      the messages' refs

  Returns acquired, failed, value per ref; acquired is 0 where there is no such message, or somebody
  holds it, or it has expired: then it is dead
]]
options(ARGV[1])
local now = clock()
local values = {} -- ref -> what this call leases

local function fromSide(ref)
  local value = call('HGET', SIDE, ref)
  if not value then
    return nil
  end
  if call('ZREM', READY, ref) == 1 then
    countReady(-1, value)
  elseif call('ZREM', DUE, ref) == 1 then
    count('delayed', -1)
  elseif ordered and call('ZREM', PARKED, parkedOf(orderingKey(value, VALUE_HEADER + 1), ref)) == 1 then
    countReady(-1, value)
  else
    return nil
  end
  return value
end

local function mark(bitmap, index)
  local byte = math.floor(index / 8) + 1
  return string.sub(bitmap, 1, byte - 1)
    .. string.char(bit.bor(string.byte(bitmap, byte), bit.lshift(1, index % 8)))
    .. string.sub(bitmap, byte + 1)
end

-- Takes records out of one unread batch; wanted: index -> ref.
local function fromLog(level, id, wanted)
  local log, field = logOf(level), partialOf(level, id)
  local entry = call('XRANGE', log, id, id)[1]
  if not entry or not isWhole() or #pendingOf(level, id, id, 1) > 0 then
    return
  end
  local bitmap = call('HGET', PARTIAL, field)
  local records = batchHeader(entry[2][2])
  local marked = bitmap or string.rep('\0', math.ceil(records / 8))
  local found = {}
  eachRecord(entry[2][2], bitmap, function(index, value)
    local ref = wanted[index]
    values[ref] = value
    found[#found + 1], found[#found + 2] = ref, value
    marked = mark(marked, index)
    countReady(-1, value)
  end, wanted)
  if #found == 0 then
    return
  end
  if popcount(marked) == records then
    call('XDEL', log, id)
    call('HDEL', PARTIAL, field)
  else
    call('HSET', PARTIAL, field, marked)
  end
  callMany('HSET', SIDE, found)
end

-- The batch at hand, and which of its records are wanted.
local batch, batchLevel, batchId, wanted

local function finishBatch()
  if batch then
    fromLog(batchLevel, batchId, wanted)
    batch = nil
  end
end

local picked = {} -- ref -> its first place in ARGV: a second one finds it gone
for at = 4, #ARGV do
  local ref = ARGV[at]
  if #ref == 24 and string.match(ref, '^[0-9a-f]+$') and not picked[ref] then
    picked[ref] = at
    values[ref] = fromSide(ref)
    if not values[ref] then
      local level, id, index = placeOf(ref)
      if batch ~= level .. ':' .. id then
        finishBatch()
        batch, batchLevel, batchId, wanted = level .. ':' .. id, level, id, {}
      end
      wanted[index] = ref
    end
  end
end
finishBatch()

local reply, tallies, held = {}, {}, {}
local untilMs = now + tonumber(ARGV[2])
for at = 4, #ARGV do
  local ref = ARGV[at]
  local value = picked[ref] == at and values[ref]
  local expires = value and expiresOf(value) or 0
  if value and expires ~= 0 and expires <= now then
    doom(ref, value, 'expired', '', '')
    value = nil
  end
  local acquired, failed = 0, 0
  if value then
    local before, failures, reason, _, failure = readTally(ref)
    failed = failures
    acquired = before + 1
    tallies[#tallies + 1] = ref
    tallies[#tallies + 1] = tallyText(acquired, failed, reason, ARGV[3], failure)
    held[#held + 1], held[#held + 2] = untilMs, ref
    count('unacked', 1)
    count(before > 0 and 'redelivered' or 'delivered', 1)
  end
  local size = #reply
  reply[size + 1], reply[size + 2], reply[size + 3] = acquired, failed, value or ''
end
callMany('HSET', TALLY, tallies)
callMany('ZADD', HELD, held)
commit()
if #held > 0 then
  announce(untilMs)
end
return reply
