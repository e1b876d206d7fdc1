--[[
  chain: add entries to the audit log, behind the last one that their hashes were made for.

  Keys behind KEYS[1], 'sluice:{audit}:':
    log   stream, id '<number>-0': entry, hash
    head  hash: number and hash of the last entry; anchorNumber and anchorHash of the last one that
          was trimmed, from which the oldest that is left can be verified

  ARGV[1] number   of the last entry, as the caller knows it; 0 = none
  ARGV[2] hash     of that entry; '' = none
  ARGV[3] keep     most entries that stay
  ARGV[4] trimMax  most entries trimmed by one call
  ARGV[5] ...      an entry and its hash, in turn

  Returns {'added', number}, or {'conflict', number, hash}: the last entry is another one
]]
local log, head = KEYS[1] .. 'log', KEYS[1] .. 'head'
local number = tonumber(call('HGET', head, 'number') or 0)
local hash = call('HGET', head, 'hash') or ''
if number ~= tonumber(ARGV[1]) or hash ~= ARGV[2] then return {'conflict', tostring(number), hash} end
for at = 5, #ARGV, 2 do
  number = number + 1
  hash = ARGV[at + 1]
  call('XADD', log, number .. '-0', 'entry', ARGV[at], 'hash', hash)
end
call('HSET', head, 'number', number, 'hash', hash)
local surplus = math.min(call('XLEN', log) - tonumber(ARGV[3]), tonumber(ARGV[4]))
if surplus > 0 then
  local oldest = call('XRANGE', log, '-', '+', 'COUNT', surplus)
  local last = oldest[#oldest]
  local trimmed = tonumber(string.match(last[1], '^%d+'))
  call('HSET', head, 'anchorNumber', trimmed, 'anchorHash', last[2][4])
  call('XTRIM', log, 'MINID', (trimmed + 1) .. '-0')
end
return {'added', tostring(number)}
