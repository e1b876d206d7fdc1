--[[
  drop: delete a queue and all that it holds. From here on an append answers 'gone'.

  ARGV[1] epoch     of the queue to delete
  ARGV[2] ifEmpty   1 = only when it holds no message
  ARGV[3] unusedMs  >= 0: only when nobody used it for this long (x-expires); -1 = always
  ARGV[4] ifUnused  1 = only when it has no consumer
  ARGV[5] tombstone how long the deletion is remembered, ms

  Returns {'dropped', messages}: how many were ready
       or {'not-empty', messages}
       or {'in-use'}
       or {'gone'}: deleted before
]]
local meta = call('HMGET', META, 'epoch', 'gone', 'ready', 'unacked', 'delayed', 'used')
local epoch = tonumber(ARGV[1])
if meta[1] and (tonumber(meta[1]) > epoch or (tonumber(meta[1]) == epoch and meta[2])) then
  return {'gone'}
end
local ready = tonumber(meta[3] or 0)
local all = ready + tonumber(meta[4] or 0) + tonumber(meta[5] or 0)
if ARGV[2] == '1' and all > 0 then
  return {'not-empty', all}
end
local unused = tonumber(ARGV[3])
local consumed = call('EXISTS', CONSUMERS) == 1
if (consumed and (unused >= 0 or ARGV[4] == '1'))
  or (unused >= 0 and clock() < tonumber(meta[6] or 0) + unused) then
  return {'in-use'}
end
call('UNLINK', META, SIDE, READY, DUE, HELD, DEAD, TALLY, WAITING, HEADS, PARKED, PARTIAL,
  CONSUMERS, TAGS)
for level = 0, 9 do
  call('UNLINK', logOf(level))
end
call('HSET', META, 'epoch', ARGV[1], 'gone', 1)
call('PEXPIRE', META, ARGV[5])
return {'dropped', ready}
