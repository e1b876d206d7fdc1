--[[
  forget: keep of the feed of changes its last entry alone.

  Trimming would leave the bytes of what it removes in the stream's nodes; so the stream is made
  anew. Who has not read the feed to its end reads all definitions.

  Returns {'forgot'}
]]
local last = call('XREVRANGE', base .. 'changes', '+', '-', 'COUNT', 1)[1]
if last then
  call('DEL', base .. 'changes')
  call('XADD', base .. 'changes', last[1], unpack(last[2]))
end
return {'forgot'}
