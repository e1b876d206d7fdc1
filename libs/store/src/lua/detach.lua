--[[
  detach: forget a consumer. When it was the active one of its queue, the next is woken.

  ARGV[1] id

  Returns {'ok', consumers}: how many are left
]]
if call('HDEL', CONSUMERS, ARGV[1]) == 1 then
  call('HSET', META, 'used', clock())
  local active = call('HGET', META, 'active')
  if active == ARGV[1] then
    passOn(active)
  end
end
return {'ok', call('HLEN', CONSUMERS)}
