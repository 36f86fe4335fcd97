-- Takes off the lists up to ARGV[2] entries that expired by ARGV[1], "" for those that the server has deleted by itself,
-- by its own clock: an entry that is kept stays listed, however far a gateway's clock is ahead.
-- KEYS: created, expires. Answers how many.
local ended = ARGV[1] ~= '' and ARGV[1] or redis.call('TIME')[1] - ARGV[3]
local names = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ended, 'LIMIT', 0, ARGV[2])
for _, name in ipairs(names) do
  redis.call('ZREM', KEYS[1], name)
  redis.call('ZREM', KEYS[2], name)
end
return #names
