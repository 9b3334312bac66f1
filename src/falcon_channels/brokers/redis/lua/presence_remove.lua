-- Remove one entry.
--
-- KEYS: until
-- ARGV: what the keys of the partition begin with, token, client
-- Returns: info and 1 where it was the last of its user; or nothing

local info, last = remove(ARGV[1], ARGV[2], ARGV[3])
if not info then return false end
return {info, last and 1 or 0}
