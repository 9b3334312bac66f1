-- Add or refresh entries of one partition.
--
-- KEYS: until
-- ARGV: prefix of the keys of the partition, ttl_ms, key_ttl_ms (milliseconds after which
--       a key expires without a refresh), new id of the store, then for each entry: token,
--       client, user, info
-- Returns: id of the store; for each entry 1 if it is the first of its user in the channel,
--          else 0; for each entry 1 if it is new, else 0

local base, ttl_ms, key_ttl_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local until_ms = text(now_ms() + ttl_ms)
local firsts, news = {}, {}

-- If this key is missing, the server has lost its data. The entries are then missing, too,
-- although no process has removed them. The key therefore has a longer lifetime than any entry.
local store = redis.call('GET', base .. 'store')
if not store then
  store = ARGV[4]
  redis.call('SET', base .. 'store', store)
end
redis.call('PEXPIRE', base .. 'store', key_ttl_ms + 604800000)

for at = 5, #ARGV, 4 do
  local token, client, user, info = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local clients, owners = base .. 'c:' .. token, base .. 'o:' .. token
  local users = base .. 'u:' .. token
  local owner = redis.call('HGET', owners, client)
  news[#news + 1] = owner and 0 or 1
  if owner and owner ~= user then
    remove(base, token, client)
    owner = false
  end
  local first = 0
  if not owner then
    redis.call('HSET', owners, client, user)
    if redis.call('HINCRBY', users, user, 1) == 1 then first = 1 end
  end
  redis.call('HSET', clients, client, info)
  redis.call('ZADD', base .. 'until', until_ms, token .. ':' .. client)
  for _, key in ipairs({clients, owners, users, base .. 'until'}) do
    if redis.call('PTTL', key) < key_ttl_ms then redis.call('PEXPIRE', key, key_ttl_ms) end
  end
  firsts[#firsts + 1] = first
end
return {store, firsts, news}
