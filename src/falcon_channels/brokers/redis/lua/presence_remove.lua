-- Remove one entry of a channel.
--
-- KEYS: until
-- ARGV: prefix of the keys of the partition, token, client
-- Returns: info, and 1 if it was the last of its user in the channel, else 0; or nothing

local info, last = remove(ARGV[1], ARGV[2], ARGV[3])
if not info then return false end
return {info, last and 1 or 0}
