--[[
  accept: keep records of requests that were accepted, of one group.

  A record that is there already stays: the request came again, or was answered meanwhile.

  ARGV[1] keepMs  how long, from here
  ARGV[2] ...     per request its id and its record

  Returns {'ok'}
]]
for at = 2, #ARGV, 2 do
  call('SET', base .. ARGV[at] .. ':record', ARGV[at + 1], 'PX', ARGV[1], 'NX')
end
return {'ok'}
