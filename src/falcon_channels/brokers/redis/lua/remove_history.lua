-- Remove all publications of a log, and the end of the channel.
--
-- KEYS: meta, log
-- Returns: 1

redis.call('DEL', KEYS[2])
local offset = string.match(redis.call('HGET', KEYS[1], 'n') or '', '^(%d+):')
if offset then redis.call('HSET', KEYS[1], 'n', offset) end
return 1
