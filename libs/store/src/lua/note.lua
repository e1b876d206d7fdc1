--[[
  note: what became of a request that an ingest accepted, and wake whoever waits for it.

  A request that was delivered stays so, whatever comes later: a message may be delivered twice.
  Anything else gives way to what is newer: a dead letter may be sent back and delivered.

  Behind the base: 'record', a string: a letter, w(aiting), f(ailed, and waiting again), d(elivered)
  or x (dead), and who accepted it; 'answer', a string that requests.ts reads; 'waiters', the slots
  of processes in which somebody waits.

  ARGV[1] state   the letter
  ARGV[2] answer  '' = what there is stays
  ARGV[3] keepMs  how long both are kept from here
  ARGV[4] record  stands in for one that is gone

  Returns {'noted'} or {'kept'}: it was delivered already
]]
local RECORD, ANSWER, WAITERS = base .. 'record', base .. 'answer', base .. 'waiters'
local before = call('GETRANGE', RECORD, 0, 0)
if before == 'd' then
  return {'kept'}
end
if before == '' then
  call('SET', RECORD, ARGV[1] .. ARGV[4], 'PX', ARGV[3])
else
  call('SETRANGE', RECORD, 0, ARGV[1])
  call('PEXPIRE', RECORD, ARGV[3])
end
if ARGV[2] ~= '' then
  call('SET', ANSWER, ARGV[2], 'PX', ARGV[3])
else
  call('PEXPIRE', ANSWER, ARGV[3])
end
if ARGV[1] == 'd' or ARGV[1] == 'x' then
  for _, slot in ipairs(call('SMEMBERS', WAITERS)) do
    call('PUBLISH', 'sluice:wake:' .. slot, base)
  end
  call('UNLINK', WAITERS)
end
return {'noted'}
