--[[
  oldest: how long the oldest message that is ready has been stored.

  Messages behind another of their ordering key are not looked at.

  ARGV[1] options  see prelude

  Returns {ageMs}: 0 = nothing is ready
]]
options(ARGV[1])
local oldest
local function note(ms)
  oldest = math.min(oldest or ms, ms)
end
for level = 0, levels - 1 do
  local ref = readyRefs(level, 1)[1]
  if ref then
    note(tonumber(string.sub(ref, 2, 13), 16))
  end
  local entry = call('EXISTS', logOf(level)) == 1 and headOf(level)
  if entry then
    note(tonumber(string.match(entry[1], '^%d+')))
  end
end
return {oldest and math.max(0, clock() - oldest) or 0}
