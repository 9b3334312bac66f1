-- Put before the scripts of presence.
--
-- Channels are spread over a few partitions, each in one slot. A partition has a sorted
-- set `until` of all its entries by the time at which they expire, in milliseconds; a
-- member is TOKEN:CLIENT, where TOKEN is the encoded channel. Each channel has hashes of
-- its clients (c: info, o: user) and of its users (u: how many entries).

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function text(number)
  return string.format('%.0f', number)
end

-- Remove an entry; return its info and whether it was the last of its user.
local function remove(base, token, client)
  local clients, owners = base .. 'c:' .. token, base .. 'o:' .. token
  redis.call('ZREM', base .. 'until', token .. ':' .. client)
  local info = redis.call('HGET', clients, client)
  local user = redis.call('HGET', owners, client)
  if not info or not user then return nil end
  redis.call('HDEL', clients, client)
  redis.call('HDEL', owners, client)
  local last = redis.call('HINCRBY', base .. 'u:' .. token, user, -1) <= 0
  if last then redis.call('HDEL', base .. 'u:' .. token, user) end
  return info, last
end
