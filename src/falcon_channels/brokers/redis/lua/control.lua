-- Send a control message, and store it for processes whose link is lost.
--
-- KEYS: stream
-- ARGV: name of the pub/sub channel, PUBLISH or SPUBLISH, maximum number of stored
--       messages, milliseconds for which they are stored, message
-- Returns: id of the message

local id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[3], '*', 'b', ARGV[5])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call(ARGV[2], ARGV[1], id .. ' ' .. ARGV[5])
return id
