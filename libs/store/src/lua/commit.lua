--[[
  commit: change definitions, all or nothing, provided nobody changed any since the caller read
  them.

  The stamp tells apart two histories that reach the same version: a Redis that came back from an
  older copy of its data counts on from there.

  ARGV[1] version  that the caller read; '0' when there was none
  ARGV[2] stamp    of that version, '' when there was none
  ARGV[3] newStamp random, for the version that this makes
  ARGV[4] keep     entries that the change feed keeps
  ARGV[5] ...      field, value, field, value: definitions; an empty value removes the field

  Returns {'committed', version}
       or {'conflict', version}: the version it has
]]
local version = call('GET', base .. 'version') or '0'
local stamp = call('GET', base .. 'stamp') or ''
if version ~= ARGV[1] or stamp ~= ARGV[2] then
  return {'conflict', version}
end
local new = string.format('%d', version + 1)
local entry = {'stamp', ARGV[3]}
for i = 5, #ARGV, 2 do
  local field, value = ARGV[i], ARGV[i + 1]
  if value == '' then
    call('HDEL', base .. 'definitions', field)
  else
    call('HSET', base .. 'definitions', field, value)
  end
  entry[#entry + 1] = field
  entry[#entry + 1] = value
end
call('SET', base .. 'version', new)
call('SET', base .. 'stamp', ARGV[3])
call('XADD', base .. 'changes', 'MAXLEN', ARGV[4], new .. '-0', unpack(entry))
call('PUBLISH', base .. 'hint', new)
return {'committed', new}
