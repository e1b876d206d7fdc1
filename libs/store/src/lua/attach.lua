--[[
  attach: register a consumer with its queue, and ask which one is active. Repeating it changes
  nothing, so an inactive consumer asks again in the same way.

  A consumer is a hash field, id -> 'slot order priority exclusive'. Where only a single one is
  active (x-single-active-consumer), the one that came first is, until it leaves.

  ARGV[1] epoch      the queue's
  ARGV[2] slot       of the process that serves it
  ARGV[3] id         unique over all processes
  ARGV[4] priority   kept for lists
  ARGV[5] exclusive  1 = refuse to share the queue
  ARGV[6] single     1 = one consumer at a time is active
  ARGV[7] round      of the slot, see comesLate

  Returns {'ok', active, consumers}: active 1 when this one may consume
       or {'exclusive'}: somebody consumes exclusively, or it was asked for and somebody consumes
       or {'gone'} or {'missing'}
       or {'late'}: the caller gave up on it
]]
local meta = call('HMGET', META, 'epoch', 'gone', 'active')
if meta[1] ~= ARGV[1] or meta[2] then
  return {meta[1] and tonumber(meta[1]) >= tonumber(ARGV[1]) and 'gone' or 'missing'}
end
if comesLate(ARGV[2], tonumber(ARGV[7])) then
  return {'late'}
end
local id, exclusive = ARGV[3], ARGV[5]
if call('HEXISTS', CONSUMERS, id) == 0 then
  local others = call('HVALS', CONSUMERS)
  for _, other in ipairs(others) do
    if exclusive == '1' or string.sub(other, -1) == '1' then
      return {'exclusive'}
    end
  end
  local order = call('HINCRBY', META, 'attached', 1)
  call('HSET', CONSUMERS, id, table.concat({ARGV[2], order, ARGV[4], exclusive}, ' '))
end
call('HSET', META, 'used', clock())
local active = ARGV[6] ~= '1' or passOn(meta[3]) == id
return {'ok', active and 1 or 0, call('HLEN', CONSUMERS)}
