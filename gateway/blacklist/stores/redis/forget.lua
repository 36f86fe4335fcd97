-- Takes off the lists up to ARGV[2] entries that expired by ARGV[1]; the server deletes them by itself.
-- KEYS: created, expires. Answers how many.
local names = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
for _, name in ipairs(names) do
  redis.call('ZREM', KEYS[1], name)
  redis.call('ZREM', KEYS[2], name)
end
return #names
