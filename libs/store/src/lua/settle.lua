--[[
  settle: acknowledge whole batches and single messages, provided the caller still holds them.

  The fence: a batch that was reclaimed is gone from the pending entries, so XACK counts it out; a
  single message is held at the caller's score (its slot), or was delivered as often as the lease
  token says. An acknowledgement that comes too late changes nothing.

  ARGV[1] options  see prelude
  ARGV[2] slot     the caller's slot number; 0 = leases
  ARGV[3] level    of the batches
  ARGV[4] batches  how many pairs of entry id and count follow
  ARGV[5] partials how many pairs of entry id and bitmap follow those
  ARGV[6] countAs  adds what is settled to this counter of meta, too; '' = none
  ARGV[7] ...      id, count: a batch of which every record is settled or was moved, and how many
                   records it had;
                   id, bitmap: records of a batch that are settled so far;
                   then per single message its ref and fence: '' for the slot, else deliveries made

  Returns {'ok', outcomes}: a letter a batch, then a partial, then a message: s(ettled) or x (stale)
]]
options(ARGV[1])
local slotNumber, level = tonumber(ARGV[2]), tonumber(ARGV[3])
local batches, partials = tonumber(ARGV[4]), tonumber(ARGV[5])
local log = logOf(level)
local outcomes = {}
local settled = 0
local at = 7

-- Records of a batch that left it before: settled and counted, or moved.
local function leftBefore(id)
  return popcount(call('HGET', PARTIAL, partialOf(level, id)) or '')
end

-- Batches, and single messages below, in calls that Lua's stack can hold.
local batchesEnd = at + 2 * batches
local picked = batches > 0 and call('EXISTS', PARTIAL) == 1
while at < batchesEnd do
  local ids, counts, total = {}, {}, 0
  while at < batchesEnd and #ids < 1000 do
    local n = #ids + 1
    ids[n] = ARGV[at]
    counts[n] = tonumber(ARGV[at + 1]) - (picked and leftBefore(ids[n]) or 0)
    total = total + counts[n]
    at = at + 2
  end
  if call('XACK', log, GROUP, unpack(ids)) == #ids then
    outcomes[#outcomes + 1] = string.rep('s', #ids)
    settled = settled + total
    call('XDEL', log, unpack(ids))
  else
    -- An acknowledged entry exists until it is deleted, once; a reclaimed one does not.
    for i, id in ipairs(ids) do
      local held = call('XDEL', log, id) == 1
      outcomes[#outcomes + 1] = held and 's' or 'x'
      settled = settled + (held and counts[i] or 0)
    end
  end
  for _, id in ipairs(picked and ids or {}) do
    call('HDEL', PARTIAL, partialOf(level, id))
  end
end

for _ = 1, partials do
  local id, bitmap = ARGV[at], ARGV[at + 1]
  at = at + 2
  if #pendingOf(level, id, id, 1, 'd' .. slotNumber) > 0 then
    local field = partialOf(level, id)
    local before = call('HGET', PARTIAL, field) or string.rep('\0', #bitmap)
    local after = {}
    for i = 1, #bitmap do
      after[i] = string.char(bit.bor(string.byte(before, i), string.byte(bitmap, i)))
    end
    bitmap = table.concat(after)
    call('HSET', PARTIAL, field, bitmap)
    settled = settled + popcount(bitmap) - popcount(before)
    outcomes[#outcomes + 1] = 's'
  else
    outcomes[#outcomes + 1] = 'x'
  end
end

while ARGV[at] do
  local refs, fences, held = {}, {}, {}
  while ARGV[at] and #refs < 1000 do
    refs[#refs + 1], fences[#fences + 1] = ARGV[at], ARGV[at + 1]
    at = at + 2
  end
  local scores = call('ZMSCORE', HELD, unpack(refs))
  local tallies = slotNumber == 0 and call('HMGET', TALLY, unpack(refs))
  local seen = {}
  for i, ref in ipairs(refs) do
    local score = tonumber(scores[i] or nil)
    local holds = score and not seen[ref]
    if holds and fences[i] == '' then
      holds = score == -slotNumber
    elseif holds then
      holds = score > 0 and parseTally(tallies[i]) == tonumber(fences[i])
    end
    if holds then
      seen[ref] = true
      held[#held + 1] = ref
    end
    outcomes[#outcomes + 1] = holds and 's' or 'x'
  end
  if #held > 0 then
    local values = ordered and call('HMGET', SIDE, unpack(held))
    call('ZREM', HELD, unpack(held))
    call('HDEL', SIDE, unpack(held))
    call('HDEL', TALLY, unpack(held))
    settled = settled + #held
    for i, value in ipairs(values or {}) do
      openKey(orderingKey(value, VALUE_HEADER + 1), held[i])
    end
  end
end

if settled > 0 then
  count('unacked', -settled)
  count('acked', settled)
  if ARGV[6] ~= '' then
    count('x:' .. ARGV[6], settled)
  end
  commit()
end
return {'ok', table.concat(outcomes)}
