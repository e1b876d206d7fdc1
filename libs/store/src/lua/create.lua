--[[
  create: make an empty queue. Repeating it changes nothing, but counts as use (x-expires).

  ARGV[1] options  see prelude
  ARGV[2] epoch    the topology version that declared the queue

  Returns {'created'} or {'exists'}
       or {'gone'}: this queue was deleted, or a later one has its name
]]
options(ARGV[1])
local epoch = tonumber(ARGV[2])
local known = tonumber(call('HGET', META, 'epoch') or nil)
if known and known > epoch then
  return {'gone'}
end
if known == epoch then
  if call('HEXISTS', META, 'gone') == 1 then
    return {'gone'}
  end
  call('HSET', META, 'used', clock())
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
