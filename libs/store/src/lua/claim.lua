--[[
  claim: hand dead letters to a reaper, which moves them on and then buries them.

  A claim lasts `claimMs`; a reaper that dies in between leaves its letters to the next one, and the
  de-duplication id of the move keeps the copy single.

  ARGV[1] limit    most letters
  ARGV[2] claimMs  how long nobody else gets them
  ARGV[3] bytesMax the reply's bytes after which no further letter is added

  Returns {ref, acquired, failed, reason, holder, failure, value, ...}: seven a letter
]]
local now = clock()
local reply, budget = {}, tonumber(ARGV[3])
for _, ref in ipairs(call('ZRANGEBYSCORE', DEAD, '-inf', now, 'LIMIT', 0, ARGV[1])) do
  if budget <= 0 then
    break
  end
  local value = call('HGET', SIDE, ref)
  budget = budget - #value
  local acquired, failed, reason, holder, failure = readTally(ref)
  local n = #reply
  reply[n + 1], reply[n + 2], reply[n + 3], reply[n + 4] = ref, acquired, failed, reason
  reply[n + 5], reply[n + 6], reply[n + 7] = holder, failure, value
  call('ZADD', DEAD, now + tonumber(ARGV[2]), ref)
end
return reply
