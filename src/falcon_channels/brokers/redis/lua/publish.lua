-- Append a publication to the log of a channel and announce it, in one atomic step.
--
-- KEYS: meta, log, idempotency key
-- ARGV: name of the pub/sub channel, PUBLISH or SPUBLISH, size (0: no log), ttl_ms and
--       meta_ms (-1: no limit), idempotency_ms (0: no key), new epoch, trusted (0 or 1),
--       body
-- Returns: duplicate (0 or 1), offset, epoch

local name, command, size = ARGV[1], ARGV[2], tonumber(ARGV[3])
local ttl_ms, meta_ms = tonumber(ARGV[4]), tonumber(ARGV[5])
local idempotency_ms, body = tonumber(ARGV[6]), ARGV[9]

if idempotency_ms > 0 then
  local known = redis.call('GET', KEYS[3])
  if known then
    local offset, epoch = string.match(known, '^(%d+) (.*)$')
    return {1, offset, epoch}
  end
end

local ms = now_ms()
local offset, epoch = '0', ''
local message
if size > 0 then
  local top
  epoch, top = open_log(KEYS[1], KEYS[2], ARGV[7], ARGV[8] == '1')
  offset = text(top + 1)
  redis.call('HSET', KEYS[1], 'n', offset)
  redis.call(
    'XADD', KEYS[2], 'MAXLEN', '=', size, offset .. '-' .. text(ms), 'b', body
  )
  if ttl_ms >= 0 then
    trim_by_age(KEYS[2], ms - ttl_ms, 4)
    redis.call('PEXPIRE', KEYS[2], text(ttl_ms))
  else
    redis.call('PERSIST', KEYS[2])
  end
  if meta_ms >= 0 then
    redis.call('PEXPIRE', KEYS[1], text(meta_ms))
  else
    redis.call('PERSIST', KEYS[1])
  end
  message = 'p' .. offset .. ' ' .. epoch .. ' ' .. text(ms) .. ' ' .. body
else
  message = 'l' .. text(ms) .. ' ' .. body
end
if idempotency_ms > 0 then
  redis.call('SET', KEYS[3], offset .. ' ' .. epoch, 'PX', text(idempotency_ms))
end
redis.call(command, name, message)
return {0, offset, epoch}
