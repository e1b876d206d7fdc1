--[[
  observe: what an answer told of an endpoint, for all processes that send to it (borrow.lua).

  busy     leave it alone for `ms` (Retry-After). A longer time said before stands.
  failing  open the breaker, and probe in `ms`. When it is open already, only a probe that failed
           (`probe` 1) counts: the next comes after twice the time each time, up to msMax.
  working  close the breaker.

  ARGV[1] what   one of the above
  ARGV[2] ms     see there
  ARGV[3] msMax
  ARGV[4] probe  1 = of a request that was lent as a probe

  Returns {'ok', changed}: 1 when the breaker opened or closed
]]
local STATE = base .. 'state'
local KEPT_MS = 172800000
local what, ms = ARGV[1], tonumber(ARGV[2])
local now = clock()
local state = call('HMGET', STATE, 'until', 'open')
local open = tonumber(state[2] or nil) or 0
local changed = 0
if what == 'busy' then
  if now + ms > (tonumber(state[1] or nil) or 0) then
    call('HSET', STATE, 'until', now + ms)
  end
elseif what == 'failing' then
  if open == 0 or ARGV[4] == '1' then
    local wait = math.min(ms * 2 ^ math.min(open, 30), tonumber(ARGV[3]))
    call('HSET', STATE, 'open', open + 1, 'probe', now + math.floor(wait))
    changed = open == 0 and 1 or 0
  end
elseif open > 0 then
  call('HSET', STATE, 'base', now)
  call('HSET', STATE, 'closed', now)
  call('HDEL', STATE, 'open', 'probe')
  changed = 1
end
call('PEXPIRE', STATE, KEPT_MS)
return {'ok', changed}
