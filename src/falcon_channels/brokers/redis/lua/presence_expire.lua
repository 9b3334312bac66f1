-- Remove entries of one partition that have expired.
--
-- KEYS: until
-- ARGV: what the keys of the partition begin with, limit
-- Returns: how many were found; for each that was there its token, info and 1 where it
--          was the last of its user

local found = redis.call(
  'ZRANGEBYSCORE', KEYS[1], '-inf', text(now_ms()), 'LIMIT', 0, ARGV[2]
)
local gone = {}
for _, member in ipairs(found) do
  local token, client = string.match(member, '^([^:]*):(.*)$')
  local info, last = remove(ARGV[1], token, client)
  if info then gone[#gone + 1] = {token, info, last and 1 or 0} end
end
return {#found, gone}
