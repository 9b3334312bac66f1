-- Functions for the scripts that use the log of one channel. This text precedes them.
--
-- A log is a hash `meta` (e: epoch, n: offset of the newest publication, i: run id of
-- the server that wrote it last) and a stream. The id of an entry in the stream is
-- OFFSET-MILLISECONDS. A range of offsets is therefore a range of ids, and an id shows the
-- age of its entry.

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function text(number)
  return string.format('%.0f', number)
end

-- Return the id of this run of the server; '' if the user may not execute INFO.
local function run_id()
  local ok, info = pcall(redis.call, 'INFO', 'server')
  if not ok or type(info) ~= 'string' then return '' end
  return string.match(info, 'run_id:(%w+)') or ''
end

-- Return the epoch and the newest offset of a log, and whether it is new. Create the log if
-- it does not exist.
--
-- A server that was restarted, or a replica that has taken over, may have lost the newest
-- publications. Their offsets would be assigned again. The log therefore gets a new epoch,
-- unless `trusted` says that the server loses nothing.
local function open_log(meta, log, new_epoch, trusted)
  local run = trusted and '' or run_id()
  local found = redis.call('HMGET', meta, 'e', 'n', 'i')
  if not found[1] then
    redis.call('DEL', log)
    redis.call('HSET', meta, 'e', new_epoch, 'n', 0, 'i', run)
    return new_epoch, 0, true
  end
  if run ~= '' and found[3] ~= run then
    redis.call('HSET', meta, 'e', new_epoch, 'i', run)
    return new_epoch, tonumber(found[2]), false
  end
  return found[1], tonumber(found[2]), false
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
    redis.call('XTRIM', log, 'MINID', text(cut))
  end
end
