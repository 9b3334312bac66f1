-- Functions for the scripts that use the log of one channel. This text precedes them. A
-- line before it sets `run_id` to the id of this run of the server; '' if it is unknown.
-- Each run has its own text. No script is executed with the id of another run, because
-- a server does not know the scripts of the runs before it.
--
-- A log is a hash `meta` (e: epoch, n: offset of the newest publication, i: run id of
-- the server that wrote it last, v and w: version and version epoch) and a stream. After
-- the end of the channel, n is OFFSET:ERROR; the error is empty for success. A field of its
-- own would cost every publication a part of a microsecond. The id of an entry in the stream is
-- OFFSET-MILLISECONDS. A range of offsets is therefore a range of ids, and an id shows the
-- age of its entry.

-- Lua writes an integer below 1e14 without an exponent. Offsets and times are smaller.

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Return the epoch and the newest offset of a log, whether it is new, and the error with
-- which it has ended (false if it has not). Create the log if it does not exist.
--
-- A server that was restarted, or a replica that has taken over, may have lost the newest
-- publications. Their offsets would be assigned again. The log therefore gets a new epoch,
-- unless `trusted` is '1', which says that the server loses nothing.
local function open_log(meta, log, new_epoch, trusted)
  local found = redis.call('HMGET', meta, 'e', 'n', 'i')
  local epoch, run = found[1], found[3]
  local offset, finished = tonumber(found[2]), false
  if epoch and not offset then
    offset, finished = string.match(found[2], '^(%d+):(.*)$')
    offset = tonumber(offset)
  end
  if epoch and (run == run_id or trusted == '1' or run_id == '') then
    return epoch, offset, false, finished
  end
  run = trusted == '1' and '' or run_id
  if epoch then
    redis.call('HSET', meta, 'e', new_epoch, 'i', run)
    return new_epoch, offset, false, finished
  end
  redis.call('DEL', log)
  redis.call('HSET', meta, 'e', new_epoch, 'n', 0, 'i', run)
  return new_epoch, 0, true, false
end

-- Remove entries that are older than `before_ms`, in at most `steps` steps of 16 entries.
local function trim_by_age(log, before_ms, steps)
  for _ = 1, steps do
    -- Read only the oldest entry first, because it is nearly always young enough.
    local oldest = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)
    if not oldest[1] then return end
    if tonumber(string.match(oldest[1][1], '-(%d+)')) > before_ms then return end
    local cut
    for _, entry in ipairs(redis.call('XRANGE', log, '-', '+', 'COUNT', 16)) do
      local offset, ms = string.match(entry[1], '(%d+)-(%d+)')
      if tonumber(ms) > before_ms then break end
      cut = tonumber(offset) + 1
    end
    redis.call('XTRIM', log, 'MINID', cut)
  end
end
