-- Keep a control message for processes whose link is lost, and send it to the others.
--
-- KEYS: stream
-- ARGV: name of the pub/sub channel, PUBLISH or SPUBLISH, how many to keep, for how long
--       in milliseconds, message

local id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[3], '*', 'b', ARGV[5])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call(ARGV[2], ARGV[1], id .. ' ' .. ARGV[5])
return id
