--[[
  detach: forget a consumer. When it was the active one of its queue, the next is woken.

  ARGV[1] id
  ARGV[2] slot   of the process that served it
  ARGV[3] round  of the slot, see comesLate

  Returns {'ok', consumers}: how many are left
]]
comesLate(ARGV[2], tonumber(ARGV[3])) -- an attach that was given up on changes nothing after this
if call('HDEL', CONSUMERS, ARGV[1]) == 1 then
  call('HSET', META, 'used', clock())
  local active = call('HGET', META, 'active')
  if active == ARGV[1] then
    passOn(active)
  end
end
return {'ok', call('HLEN', CONSUMERS)}
