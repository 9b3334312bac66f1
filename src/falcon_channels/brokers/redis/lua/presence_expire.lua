-- Remove expired entries of one partition.
--
-- KEYS: until
-- ARGV: prefix of the keys of the partition, limit
-- Returns: number of expired entries that were found; for each removed one its token, its
--          info, and 1 if it was the last of its user in the channel, else 0

local found = redis.call(
  'ZRANGEBYSCORE', KEYS[1], '-inf', text(now_ms()), 'LIMIT', 0, ARGV[2]
)
local removed = {}
for _, member in ipairs(found) do
  local token, client = string.match(member, '^([^:]*):(.*)$')
  local info, last = remove(ARGV[1], token, client)
  if info then removed[#removed + 1] = {token, info, last and 1 or 0} end
end
return {#found, removed}
