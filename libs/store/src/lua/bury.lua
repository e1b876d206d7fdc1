--[[
  bury: forget dead letters that were stored where they belong, or that nobody wants.

  ARGV[1] counter  'deadLettered' or 'dropped': which total they add to
  ARGV[2] ...      refs

  Returns {buried}: how many were still here
]]
local buried = 0
for at = 2, #ARGV do
  if call('ZREM', DEAD, ARGV[at]) == 1 then
    call('HDEL', SIDE, ARGV[at])
    call('HDEL', TALLY, ARGV[at])
    buried = buried + 1
  end
end
count('dead', -buried)
count(ARGV[1], buried)
commit()
return {buried}
