--[[
  peek: read messages without touching them.

  ARGV[1] options  see prelude
  ARGV[2] state    ready: in the order they would be delivered, level by level; delayed: by due time;
                   held: by deadline; dead: on their way to the dead letters
  ARGV[3] after    '' = from the start, else the last reply's cursor
  ARGV[4] limit    about how many: a batch is never cut, so up to 127 more may come

  Returns {cursor, ref, acquired, failed, reason, holder, failure, at, value, ...}: cursor '' = the
          end; eight a message; at: due time, deadline or claim in ms, 0 = none
]]
options(ARGV[1])
local state, after, limit = ARGV[2], ARGV[3], tonumber(ARGV[4])
local reply = {''}
local found = 0

local function add(ref, value, at)
  local acquired, failed, reason, holder, failure = readTally(ref)
  local n = #reply
  reply[n + 1], reply[n + 2], reply[n + 3], reply[n + 4] = ref, acquired, failed, reason
  reply[n + 5], reply[n + 6], reply[n + 7], reply[n + 8] = holder, failure, at, value
  found = found + 1
end

if state ~= 'ready' then
  local key = state == 'delayed' and DUE or state == 'held' and HELD or DEAD
  local from = tonumber(after) or 0
  local refs = call('ZRANGE', key, from, from + limit - 1, 'WITHSCORES')
  for i = 1, #refs, 2 do
    add(refs[i], call('HGET', SIDE, refs[i]), math.max(0, tonumber(refs[i + 1])))
  end
  reply[1] = found == limit and tostring(from + limit) or ''
  return reply
end

local function lastDelivered(level)
  for _, group in ipairs(call('XINFO', 'GROUPS', logOf(level))) do
    for i = 1, #group, 2 do
      if group[i] == 'last-delivered-id' then
        return group[i + 1]
      end
    end
  end
  return '0-0'
end

-- The cursor is '<level> side <ref>' or '<level> log <entry id>'.
local level, part, position = string.match(after, '^(%d) (%a+) ?(.*)$')
level, part, position = tonumber(level) or levels - 1, part or 'side', position or ''
while level >= 0 and level < levels and call('EXISTS', logOf(level)) == 1 do
  if part == 'side' then
    local digit = string.format('%x', 9 - level)
    local from = position == '' and '[' .. digit or '(' .. position
    local refs = call('ZRANGEBYLEX', READY, from, '(' .. digit .. '~', 'LIMIT', 0, limit - found)
    for _, ref in ipairs(refs) do
      add(ref, call('HGET', SIDE, ref), 0)
    end
    if found >= limit then
      reply[1] = level .. ' side ' .. refs[#refs]
      return reply
    end
    part, position = 'log', ''
  end
  local from = position ~= '' and position or lastDelivered(level)
  while true do
    local entry = call('XRANGE', logOf(level), '(' .. from, '+', 'COUNT', 1)[1]
    if not entry then
      break
    end
    from = entry[1]
    eachRecord(entry[2][2], call('HGET', PARTIAL, partialOf(level, from)), function(index, value)
      add(refOf(level, from, index), value, 0)
    end)
    if found >= limit then
      reply[1] = level .. ' log ' .. from
      return reply
    end
  end
  level, part, position = level - 1, 'side', ''
end
return reply
