-- Takes off the lists up to ARGV[2] entries that expired ARGV[3] seconds ago or more, by ARGV[1], a gateway's clock, and by
-- the server's own: an entry that is kept stays listed, however far a gateway's clock is ahead.
-- KEYS: created, expires. Answers how many.
local ended = math.min(ARGV[1], redis.call('TIME')[1]) - ARGV[3]
local names = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ended, 'LIMIT', 0, ARGV[2])
for _, name in ipairs(names) do
  redis.call('ZREM', KEYS[1], name)
  redis.call('ZREM', KEYS[2], name)
end
return #names
