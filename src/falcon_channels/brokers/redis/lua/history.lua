-- Read the log of a channel, and its newest position at the same moment.
--
-- KEYS: meta, log
-- ARGV: size, ttl_ms, meta_ms, new epoch, trusted (0 or 1), since (-1: none),
--       limit (-1: none), reverse (0 or 1)
-- Returns: offset, epoch, "OFFSET-MILLISECONDS-SIZE" of each publication separated by
--          spaces, all bodies concatenated, and the error with which the channel has ended
--          (nil if it has not). A client in Python parses such an answer several times as
--          fast as one with a part for each publication.

local function text(number)
  return string.format('%.0f', number)
end

local size, ttl_ms, meta_ms = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local since, limit, reverse = tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8] == '1'

local epoch, top, new, finished = open_log(KEYS[1], KEYS[2], ARGV[4], ARGV[5])
if new or top == 0 then
  -- A log without publications is stored for a day at most.
  local key_ttl_ms = 86400000
  if meta_ms >= 0 and meta_ms < key_ttl_ms then key_ttl_ms = meta_ms end
  redis.call('PEXPIRE', KEYS[1], text(key_ttl_ms))
elseif limit == 0 and meta_ms >= 0 then
  -- The process only reads the position, because it has subscribers. The removal of the
  -- log is therefore postponed.
  redis.call('PEXPIRE', KEYS[1], text(meta_ms))
end
if limit == 0 then return {text(top), epoch, '', '', finished} end

if ttl_ms >= 0 then trim_by_age(KEYS[2], now_ms() - ttl_ms, 1000000) end
local first, last = top - size + 1, top
if first < 1 then first = 1 end
if since >= 0 then
  if reverse then
    if since - 1 < last then last = since - 1 end
  elseif since + 1 > first then
    first = since + 1
  end
end
if first > last then return {text(top), epoch, '', '', finished} end
local range
if reverse then
  range = {'XREVRANGE', KEYS[2], text(last), text(first)}
else
  range = {'XRANGE', KEYS[2], text(first), text(last)}
end
if limit > 0 then
  range[5], range[6] = 'COUNT', text(limit)
end
local heads, bodies = {}, {}
for number, entry in ipairs(redis.call(unpack(range))) do
  local body = entry[2][2]
  heads[number] = entry[1] .. '-' .. #body
  bodies[number] = body
end
return {text(top), epoch, table.concat(heads, ' '), table.concat(bodies), finished}
