-- Remove all publications of a log, and the end of the channel.
--
-- KEYS: meta, log
-- Returns: 1

redis.call('DEL', KEYS[2])
redis.call('HDEL', KEYS[1], 'f')
return 1
