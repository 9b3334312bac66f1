-- Who is in a channel.
--
-- KEYS: until
-- ARGV: what the keys of the partition begin with, token
-- Returns: client and info, of each whose entry has not expired

local now = now_ms()
local found = redis.call('HGETALL', ARGV[1] .. 'c:' .. ARGV[2])
local there = {}
for at = 1, #found, 2 do
  local score = redis.call('ZSCORE', KEYS[1], ARGV[2] .. ':' .. found[at])
  if score and tonumber(score) > now then
    there[#there + 1] = found[at]
    there[#there + 1] = found[at + 1]
  end
end
return there
