--[[
  reclaim: take back what a slot holds, about `limit` messages a call.

  For a dead slot everything; for a live one that lost a reply (it cannot know what the lost take
  gave it) everything but `keep`. Each message becomes ready at its old position, its delivery
  counted as failed when the slot is dead, or goes to the dead letters past the delivery limit.
  A dead slot that holds nothing is forgotten by the group. Its last appends are remembered for an
  hour more: a process that was cut off may send them again.

  ARGV[1] options  see prelude
  ARGV[2] slot     whose, e.g. d12
  ARGV[3] limit    bounds one call
  ARGV[4] dead     1 = the slot is dead
  ARGV[5] round    of a live one, see comesLate
  ARGV[6] limits   'maxLength maxBytes overflow', -1 = none, or ''; as in return
  ARGV[7] ...      keep: entry ids ('level:id') and refs that the caller knows it holds

  Returns {'more', messages} or {'done', messages}: how many were taken back
       or {'late'}: the caller gave up on it, and may hold more by now
]]
options(ARGV[1])
local slot, limit, dead = ARGV[2], tonumber(ARGV[3]), ARGV[4] == '1'
local slotNumber = tonumber(string.sub(slot, 2))
if not dead and comesLate(slot, tonumber(ARGV[5])) then
  return {'late'}
end
local keep = {}
for at = 7, #ARGV do
  keep[ARGV[at]] = true
end
local moved, more = 0, false
local PAGE = 64
local WRITERS_MS = 3600000

local function giveBack(ref, value)
  count('unacked', -1)
  moved = moved + 1
  local acquired, failed, _, holder, failure = readTally(ref)
  failed = failed + (dead and 1 or 0)
  call('HSET', TALLY, ref, tallyText(acquired, failed, '', holder, failure))
  if dead and deliveryLimit >= 0 and failed > deliveryLimit then
    doom(ref, value, 'delivery_limit', '', '')
    return
  end
  countReady(1, value)
  makeReady(ref, value)
end

for level = 0, levels - 1 do
  local log = logOf(level)
  local start = '-'
  while true do
    local pending = more and {} or pendingOf(level, start, '+', PAGE, slot)
    for _, item in ipairs(pending) do
      local id = item[1]
      more = moved >= limit
      if not more and not keep[level .. ':' .. id] then
        local field = partialOf(level, id)
        local entry = call('XRANGE', log, id, id)[1]
        if entry then
          eachRecord(entry[2][2], call('HGET', PARTIAL, field), function(index, value)
            local ref = refOf(level, id, index)
            call('HSET', SIDE, ref, value)
            call('HSET', TALLY, ref, tallyText(1, 0, '', slot, ''))
            giveBack(ref, value)
          end)
        end
        call('HDEL', PARTIAL, field)
        call('XACK', log, GROUP, id)
        call('XDEL', log, id)
      end
    end
    if more or #pending < PAGE then
      break
    end
    start = '(' .. pending[#pending][1]
  end
end

local refs = call('ZRANGEBYSCORE', HELD, -slotNumber, -slotNumber, 'LIMIT', 0, limit + #ARGV)
for _, ref in ipairs(refs) do
  if not keep[ref] then
    call('ZREM', HELD, ref)
    giveBack(ref, call('HGET', SIDE, ref))
  end
end
more = more or #refs == limit + #ARGV

if dead and not more then
  for level = 0, levels - 1 do
    redis.pcall('XGROUP', 'DELCONSUMER', logOf(level), GROUP, slot) -- there may be no group
  end
  call('SREM', WAITING, slot)
  call('HDEL', META, 'r:' .. slot)
  local consumers = call('HGETALL', CONSUMERS)
  for i = 1, #consumers, 2 do
    if string.match(consumers[i + 1], '^%S+') == slot then
      call('HDEL', CONSUMERS, consumers[i])
    end
  end
  local active = call('HGET', META, 'active')
  if active then
    passOn(active)
  end
  local writers = {}
  for _, field in ipairs(call('HKEYS', META)) do
    if string.sub(field, 1, #slot + 3) == 'w:' .. slot .. ':' then
      writers[#writers + 1] = field
    end
  end
  if #writers > 0 and call('HSETNX', META, 'd:' .. slot, clock()) == 0
    and clock() - call('HGET', META, 'd:' .. slot) > WRITERS_MS then
    call('HDEL', META, 'd:' .. slot, unpack(writers))
  end
end
trimReturned(ARGV[6], moved)
commit()
return {more and 'more' or 'done', moved}
