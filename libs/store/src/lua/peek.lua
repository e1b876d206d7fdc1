--[[
  peek: read messages without touching them.

  ARGV[1] options  see prelude
  ARGV[2] state    ready: in the order they would be delivered, level by level, those behind another
                   of their ordering key last; delayed: by due time; held: by deadline; dead: on
                   their way to the dead letters; one: a single one, wherever it is
  ARGV[3] after    '' = from the start, else the last reply's cursor; with 'one' the message's ref
  ARGV[4] limit    about how many: a batch is never cut, so up to 127 more may come
  ARGV[5] bytesMax the reply's bytes after which no further message is added

  Returns {cursor, ref, acquired, failed, reason, holder, failure, at, value, ...}: cursor '' = the
          end, with 'one' the message's state; eight a message; at: due time, deadline or claim in
          ms, 0 = none
]]
options(ARGV[1])
local state, after, limit = ARGV[2], ARGV[3], tonumber(ARGV[4])
local reply = {''}
local found, budget = 0, tonumber(ARGV[5])

local function add(ref, value, at)
  local acquired, failed, reason, holder, failure = readTally(ref)
  local n = #reply
  reply[n + 1], reply[n + 2], reply[n + 3], reply[n + 4] = ref, acquired, failed, reason
  reply[n + 5], reply[n + 6], reply[n + 7], reply[n + 8] = holder, failure, at, value
  found = found + 1
  budget = budget - #value
end

local function full()
  return found >= limit or budget <= 0
end

if state == 'one' then
  local value = call('HGET', SIDE, after)
  for name, key in pairs(value and {delayed = DUE, held = HELD, dead = DEAD} or {}) do
    local at = tonumber(call('ZSCORE', key, after) or nil)
    if at then
      reply[1] = name
      add(after, value, math.max(0, at))
    end
  end
  if value and found == 0 then
    reply[1] = 'ready'
    add(after, value, 0)
  elseif not value then
    local level, id, index = placeOf(after)
    local entry = call('XRANGE', logOf(level), id, id)[1]
    if entry then
      eachRecord(entry[2][2], call('HGET', PARTIAL, partialOf(level, id)), function(i, record)
        if i == index then
          reply[1] = #pendingOf(level, id, id, 1) > 0 and 'held' or 'ready'
          add(after, record, 0)
        end
      end)
    end
  end
  return reply
end

if state ~= 'ready' then
  local key = state == 'delayed' and DUE or state == 'held' and HELD or DEAD
  local from = tonumber(after) or 0
  local refs = call('ZRANGE', key, from, from + limit - 1, 'WITHSCORES')
  for i = 1, #refs, 2 do
    add(refs[i], call('HGET', SIDE, refs[i]), math.max(0, tonumber(refs[i + 1])))
    if full() then
      break
    end
  end
  reply[1] = full() and tostring(from + found) or ''
  return reply
end

-- The ready ones of a level behind `position`. Where they have turns they sort by those: a rank is
-- the position then, and some are missed or come twice if others are taken meanwhile.
local hasTurns = levels == 1 and call('ZCOUNT', READY, '(0', '+inf') > 0
local function readyBehind(level, position)
  if hasTurns then
    local from = tonumber(string.match(position, '^#(%d+)')) or 0
    return call('ZRANGE', READY, from, from + limit - found - 1), from
  end
  local digit = string.format('%x', 9 - level)
  local from = position == '' and '[' .. digit or '(' .. position
  return call('ZRANGEBYLEX', READY, from, '(' .. digit .. '~', 'LIMIT', 0, limit - found), 0
end

-- The cursor is '<level> side <ref>' or '0 side #<rank>', '<level> log <entry id>', '0 parked <rank>'.
local level, part, position = string.match(after, '^(%d) (%a+) ?(.*)$')
level, part, position = tonumber(level) or levels - 1, part or 'side', position or ''
while part ~= 'parked' and level >= 0 and level < levels and call('EXISTS', logOf(level)) == 1 do
  if part == 'side' then
    local refs, from = readyBehind(level, position)
    for i, ref in ipairs(refs) do
      add(ref, call('HGET', SIDE, ref), 0)
      if full() then
        reply[1] = level .. ' side ' .. (hasTurns and '#' .. (from + i) or ref)
        return reply
      end
    end
    part, position = 'log', ''
  end
  local from = position ~= '' and position or lastDelivered(level) or '0-0'
  while true do
    local entry = call('XRANGE', logOf(level), '(' .. from, '+', 'COUNT', 1)[1]
    if not entry then
      break
    end
    from = entry[1]
    eachRecord(entry[2][2], call('HGET', PARTIAL, partialOf(level, from)), function(index, value)
      add(refOf(level, from, index), value, 0)
    end)
    if full() then
      reply[1] = level .. ' log ' .. from
      return reply
    end
  end
  level, part, position = level - 1, 'side', ''
end
if ordered then
  local from = part == 'parked' and tonumber(position) or 0
  for i, member in ipairs(call('ZRANGE', PARKED, from, from + limit - found - 1)) do
    local ref = string.sub(member, -24)
    add(ref, call('HGET', SIDE, ref), 0)
    if full() then
      reply[1] = '0 parked ' .. (from + i)
      break
    end
  end
end
return reply
