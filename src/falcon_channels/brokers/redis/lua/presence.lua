-- Functions for the scripts of presence. This text precedes them.
--
-- The channels are divided into a few partitions, each in one slot of a Cluster. A
-- partition has a sorted set `until` of all its entries. The score is the Unix time in
-- milliseconds when the entry expires; the member is TOKEN:CLIENT, where TOKEN encodes the
-- channel. Each channel has two hashes by client (c: info, o: user), and one by user (u:
-- number of entries).

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function text(number)
  return string.format('%.0f', number)
end

-- Remove an entry. Return its info and whether it was the last of its user; nil if there
-- was no entry.
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
