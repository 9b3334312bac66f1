-- Send a control message, and store it for processes whose link is lost.
--
-- KEYS: stream
-- ARGV: name of the pub/sub channel, PUBLISH or SPUBLISH, maximum number of stored
--       messages, milliseconds for which they are stored, message
-- Returns: id of the message
--
-- An entry of the stream is the message (b) and the id of the run of the server that has
-- stored it (i). A line before this text sets `run_id`.

local id = redis.call(
  'XADD', KEYS[1], 'MAXLEN', '~', ARGV[3], '*', 'b', ARGV[5], 'i', run_id
)
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call(ARGV[2], ARGV[1], id .. ' ' .. ARGV[5])
return id
