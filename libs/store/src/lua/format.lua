--[[
  format: raise the version of what is stored, never lower it.

  ARGV[1] written  format that the caller writes

  Returns {format}: what is stored from here on; data that has none yet is of format 1
]]
local format = tonumber(call('GET', base .. 'format') or '0')
if format < tonumber(ARGV[1]) then
  format = tonumber(ARGV[1])
  call('SET', base .. 'format', ARGV[1])
end
return {format}
