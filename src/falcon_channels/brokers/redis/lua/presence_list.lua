-- Read the entries of a channel that have not expired.
--
-- KEYS: until
-- ARGV: prefix of the keys of the partition, token
-- Returns: the sizes of client and info of each entry separated by spaces, and all clients
--          and infos concatenated. history.lua says why.

local now = now_ms()
local found = redis.call('HGETALL', ARGV[1] .. 'c:' .. ARGV[2])
local sizes, parts, count = {}, {}, 0
for at = 1, #found, 2 do
  local score = redis.call('ZSCORE', KEYS[1], ARGV[2] .. ':' .. found[at])
  if score and tonumber(score) > now then
    local client, info = found[at], found[at + 1]
    sizes[count + 1], parts[count + 1] = #client, client
    sizes[count + 2], parts[count + 2] = #info, info
    count = count + 2
  end
end
return {table.concat(sizes, ' '), table.concat(parts)}
