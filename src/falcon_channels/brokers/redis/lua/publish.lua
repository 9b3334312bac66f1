-- Append a publication to the log of a channel and announce it, in one atomic step.
--
-- KEYS: meta, log, idempotency key
-- ARGV: name of the pub/sub channel, PUBLISH or SPUBLISH, size (0: no log, -1: the
--       publication skips the log), ttl_ms and meta_ms (-1: no limit), idempotency_ms (0:
--       no key), new epoch, trusted (0 or 1), body; for some publications also: 1 if it
--       ends the channel (else 0), the error with which it ends, version, version epoch
-- Returns: "OFFSET EPOCH"; with a 'd' before it if the idempotency key was used before,
--          with an 's' if the log has this version or a newer one; 'f' if the channel has
--          ended
--
-- Each step costs every publication a microsecond of the server. Measure a change with
-- benchmarks/redis_publish.py.

local call = redis.call
local size, ttl_ms, meta_ms, idempotency_ms = ARGV[3], ARGV[4], ARGV[5], ARGV[6]

if idempotency_ms ~= '0' then
  local known = call('GET', KEYS[3])
  if known then return 'd' .. known end
end

local ms = now_ms()
local position, message = '0 ', 'l'
if size == '-1' then
  local offset = call('HGET', KEYS[1], 'n')
  if offset and string.find(offset, ':', 1, true) then return 'f' end
  size = '0'
end
if size ~= '0' then
  local meta, log = KEYS[1], KEYS[2]
  local epoch, offset, _, finished = open_log(meta, log, ARGV[7], ARGV[8])
  if finished then return 'f' end
  if ARGV[12] then
    local version, version_epoch = ARGV[12], ARGV[13]
    local stored, stored_epoch = unpack(call('HMGET', meta, 'v', 'w'))
    if stored and (version_epoch == '' or version_epoch == stored_epoch) then
      -- A number in Lua does not represent each integer up to 2^63. The texts are compared.
      local higher = version > stored
      if #version ~= #stored then higher = #version > #stored end
      if not higher then return 's' .. offset .. ' ' .. epoch end
    end
    call('HSET', meta, 'v', version, 'w', version_epoch)
  end
  offset = offset + 1
  call('HSET', meta, 'n', ARGV[10] == '1' and offset .. ':' .. ARGV[11] or offset)
  call('XADD', log, 'MAXLEN', '=', size, offset .. '-' .. ms, 'b', ARGV[9])
  if ttl_ms ~= '-1' then
    -- The log may contain a few entries that are too old. `history` returns none of them.
    if offset % 16 == 0 then trim_by_age(log, ms - ttl_ms, 4) end
    call('PEXPIRE', log, ttl_ms)
  else
    call('PERSIST', log)
  end
  if meta_ms ~= '-1' then
    call('PEXPIRE', meta, meta_ms)
  else
    call('PERSIST', meta)
  end
  position = offset .. ' ' .. epoch
  message = 'p' .. position .. ' '
end
if idempotency_ms ~= '0' then
  call('SET', KEYS[3], position, 'PX', idempotency_ms)
end
call(ARGV[2], ARGV[1], message .. ms .. ' ' .. ARGV[9])
return position
