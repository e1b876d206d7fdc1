--[[
  borrow: what a process may send to an endpoint that several processes share: slots in time, and
  permits for concurrent requests.

  Slots follow the generic cell rate algorithm (ITU-T I.371): the n-th is due at base + n * spacing,
  and `base` never lies more than burst - 1 spacings back. Those due within the horizon are handed
  out at once, with their times. Nothing is lent while the endpoint is asked to be left alone, or
  its breaker is open; then, whenever a probe is due, one slot to one process. After an outage the
  rate grows from a tenth to the whole over rampMs, and begins without a burst.

  Permits are lent until the lease ends, so those of a process that died come back. Processes that
  want them share evenly: one that has more in use is told its share, and frees the rest as requests
  end.

  Two keys behind the base: 'state', a hash: base (ms), until (ms: left alone), open (times the
  breaker tripped in a row), probe (ms), closed (ms: when the breaker closed); 'permits', a hash:
  holder -> 'granted wanted deadline'.

  ARGV[1] holder      names the process
  ARGV[2] rate        slots a second, 0 = any number
  ARGV[3] burst       most slots due at once, a fraction allowed
  ARGV[4] rampMs      0 = none
  ARGV[5] slots       most slots wanted
  ARGV[6] horizonMs   how far ahead a slot may be
  ARGV[7] unused      slots of the last loan that were not used ...
  ARGV[8] loan        ... and what it was called; taken back if nobody borrowed since
  ARGV[9] permitsMax  of all processes together, 0 = any number
  ARGV[10] permits    wanted, those in use included
  ARGV[11] inUse      permits that requests hold at the moment
  ARGV[12] leaseMs    how long the permits are lent
  ARGV[13] probeMs    how long a probe may take

  Returns {word, waitMs, slots, firstMs, spacingMs, loan, permits, share}: word 'open'; 'probe': one
          request may find out; 'down' or 'busy': nothing for waitMs. With no slot at all, waitMs is
          until there is one to lend. firstMs: when the first is due, from now. share: of the rate.
]]
local STATE, PERMITS = base .. 'state', base .. 'permits'
local KEPT_MS = 172800000 -- longer than anything in it lasts
local SHARE_MIN = 0.1
local holder, rate, burst, rampMs = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local wanted, horizon = tonumber(ARGV[5]), tonumber(ARGV[6])
local time = call('TIME')
local now = time[1] * 1000 + time[2] / 1000
local state = call('HMGET', STATE, 'base', 'until', 'open', 'probe', 'closed')
local lent = tonumber(state[1] or nil) or 0
local leftAlone = tonumber(state[2] or nil) or 0
local open = tonumber(state[3] or nil) or 0
local probe, closed = tonumber(state[4] or nil) or 0, tonumber(state[5] or nil) or 0

local function text(number)
  return string.format('%.3f', number)
end

-- Permits

local function lendPermits()
  local most, asked, inUse = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])
  if most == 0 then
    return asked
  end
  local others, taken = {}, 0
  local all = call('HGETALL', PERMITS)
  for i = 1, #all, 2 do
    local granted, wants, deadline = string.match(all[i + 1], '^(%d+) (%d+) (%d+)$')
    if tonumber(deadline) <= now then
      call('HDEL', PERMITS, all[i])
    elseif all[i] ~= holder then
      taken = taken + tonumber(granted)
      others[#others + 1] = tonumber(wants)
    end
  end
  local fair, claimed = math.max(1, math.floor(most / (#others + 1))), 0
  for _, wants in ipairs(others) do
    claimed = claimed + math.min(wants, fair)
  end
  local due = math.max(0, math.min(asked, most - taken, math.max(fair, most - claimed)))
  local granted = math.max(due, inUse) -- what is in use counts until it ends
  if asked == 0 and granted == 0 then
    call('HDEL', PERMITS, holder)
  else
    local deadline = math.ceil(now + ARGV[12])
    call('HSET', PERMITS, holder, string.format('%d %d %d', granted, asked, deadline))
    call('PEXPIRE', PERMITS, KEPT_MS)
  end
  return due
end

-- Slots

local share = 1
if rampMs > 0 and closed > 0 then
  share = math.min(1, math.max(SHARE_MIN, (now - closed) / rampMs))
end
local spacing = rate > 0 and 1000 / (rate * share) or 0

local function lendSlots()
  if rate == 0 then
    return wanted, 0, 0, ''
  end
  local unused = tonumber(ARGV[7])
  if unused > 0 and state[1] == ARGV[8] then
    lent = lent - unused * spacing
  end
  lent = math.max(lent, now - (burst - 1) * spacing)
  local slots = math.floor((now + horizon - lent) / spacing + 1)
  slots = math.max(0, math.min(slots, wanted))
  local first = lent - now
  lent = lent + slots * spacing
  local loan = text(lent)
  call('HSET', STATE, 'base', loan)
  call('PEXPIRE', STATE, KEPT_MS)
  return slots, first, spacing, loan
end

if leftAlone > now then
  return {'busy', math.ceil(leftAlone - now), 0, '0', '0', '', lendPermits(), text(share)}
end
local word = 'open'
if open > 0 then
  if probe > now or wanted == 0 then
    return {'down', math.max(0, math.ceil(probe - now)), 0, '0', '0', '', lendPermits(), text(share)}
  end
  call('HSET', STATE, 'probe', text(now + ARGV[13]))
  word, wanted = 'probe', 1
end
local slots, first, apart, loan = lendSlots()
local waitMs = 0
if slots == 0 and wanted > 0 then
  waitMs = math.max(1, math.ceil(first - horizon))
  if word == 'probe' then
    call('HSET', STATE, 'probe', text(now + waitMs))
    word = 'down'
  end
end
return {word, waitMs, slots, text(first), text(apart), loan, lendPermits(), text(share)}
