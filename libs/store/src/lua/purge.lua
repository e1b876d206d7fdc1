--[[
  purge: remove ready messages, those parked behind an ordering key included; held, delayed and
  dead ones stay. One bounded pass; the caller repeats it until 'done'.

  ARGV[1] options  see prelude
  ARGV[2] limit    about how many messages
  ARGV[3] until    '' in the first pass, then the last reply's: messages published meanwhile stay

  Returns {'more', until, purged} or {'done', until, purged}
]]
options(ARGV[1])
local limit, ends = tonumber(ARGV[2]), {}
local purged = 0

local function remove(ref)
  local value = call('HGET', SIDE, ref)
  countReady(-1, value)
  purged = purged + 1
  call('HDEL', SIDE, ref)
  call('HDEL', TALLY, ref)
  return value
end

local parked = call('ZRANGE', PARKED, 0, limit - 1)
for _, member in ipairs(parked) do
  call('ZREM', PARKED, member)
  remove(string.sub(member, -24))
end
local refs = #parked < limit and call('ZRANGE', READY, 0, limit - 1) or {}
for _, ref in ipairs(refs) do
  call('ZREM', READY, ref)
  local key = orderingKey(remove(ref), VALUE_HEADER + 1)
  if ordered and key ~= '' then
    call('HDEL', HEADS, key)
  end
end
local more = #parked == limit or #refs == limit

-- Unread batches up to the newest one there was in the first pass.
for level = 0, levels - 1 do
  local log = logOf(level)
  if call('EXISTS', log) == 1 then
    local last, delivered = nil, lastDelivered(level)
    local info = call('XINFO', 'STREAM', log)
    for i = 1, #info, 2 do
      if info[i] == 'last-generated-id' then
        last = info[i + 1]
      end
    end
    ends[#ends + 1] = last
    local bound = ARGV[3] == '' and last
    if not bound then
      local at = 0
      for id in string.gmatch(ARGV[3], '%S+') do
        if at == level then
          bound = id
        end
        at = at + 1
      end
    end
    while delivered and not more do
      local entry = call('XRANGE', log, '(' .. delivered, bound, 'COUNT', 1)[1]
      if not entry then
        break
      end
      local field = partialOf(level, entry[1])
      eachRecord(entry[2][2], call('HGET', PARTIAL, field), function(_, value)
        countReady(-1, value)
        purged = purged + 1
      end)
      call('HDEL', PARTIAL, field)
      call('XDEL', log, entry[1])
      more = purged >= limit
    end
  end
end
count('purged', purged)
commit()
return {more and 'more' or 'done', ARGV[3] == '' and table.concat(ends, ' ') or ARGV[3], purged}
