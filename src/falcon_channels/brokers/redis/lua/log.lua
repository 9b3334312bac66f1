-- Put before the scripts that use the log of one channel.
--
-- A log is a hash `meta` (e: epoch, n: offset of the newest publication, i: run id of
-- the server that wrote it last) and a stream. The id of an entry is OFFSET-MILLISECONDS,
-- so that a range of offsets is a range of ids, and its age can be told.

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function text(number)
  return string.format('%.0f', number)
end

-- The id of this run of the server; '' where the user may not ask.
local function run_id()
  local ok, info = pcall(redis.call, 'INFO', 'server')
  if not ok or type(info) ~= 'string' then return '' end
  return string.match(info, 'run_id:(%w+)') or ''
end

-- Return the epoch and the newest offset of a log; begin it where there is none.
--
-- A server that was restarted, or a replica that took over, may have lost the newest
-- publications, whose offsets would be given out again. So what is left is another log
-- from then on, with a new epoch, unless the server is said to lose nothing.
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

-- Remove entries that are too old, in at most so many steps of 16.
local function trim_by_age(log, before_ms, steps)
  for _ = 1, steps do
    -- The oldest alone first: nearly always it is young enough.
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
