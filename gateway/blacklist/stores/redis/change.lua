-- Changes entries, and leaves a mark in the history (gateway/blacklist/stores/history.py).
--
-- KEYS: generation, head, history, created, expires, a message's mark, then each entry's.
-- ARGV: the new mark; when an operator accepted the store (ms), "" for no such change, or "adopt" for changes that
--   gateways of older versions made without a mark; the changed keys as JSON, "*" for too many; the seconds that the
--   server keeps an expired entry; how many marks are kept; until when the message's mark lives, "" for no message; now;
--   then for each entry the text it must replace ("" for none) and that one's name, the new text ("" to remove it), its
--   name ("" for one that is not listed) and its expires_at or "+inf".
-- Answers 1; or 0, and changes nothing, where another text or a live message's mark is there: two nodes that change
-- one entry see each other. SET comes first, for a full server refuses only a script's first write.
local name, changes = string.match(redis.call('GET', KEYS[1]) or '', '^(%x+)%.(%d+)$')
if not name then return redis.error_reply('WIPED the generation is gone') end
local mark, accepted, keys, grace, window, ends, now = unpack(ARGV, 1, 7)
local _, taken, number = string.match(redis.call('GET', KEYS[2]) or '', '^(%x+)%.(%d+)%.(%d+)%.%x+$')

-- A command that the user may not run would end the script half-way, and nothing is rolled back. Redis 6.2 cannot tell.
if redis.acl_check_cmd then
  local key = KEYS[2]
  for _, command in ipairs({{'SET', key, ''}, {'DEL', key}, {'ZADD', key, 0, ''}, {'ZREM', key, ''}, {'ZRANGEBYSCORE', key, 0, 0}}) do
    if not redis.acl_check_cmd(unpack(command)) then
      return redis.error_reply('NOPERM this user has no permissions to run the ' .. command[1] .. ' command')
    end
  end
end
if accepted == 'adopt' and number == changes then return 1 end
if ends ~= '' and tonumber(redis.call('GET', KEYS[6]) or '0') > tonumber(now) then return 0 end
for i = 7, #KEYS do
  if (redis.call('GET', KEYS[i]) or '') ~= ARGV[5 * i - 27] then return 0 end
end

for i = 7, #KEYS do
  local old_name, text, new_name, expires = unpack(ARGV, 5 * i - 26, 5 * i - 23)
  if text == '' then redis.call('DEL', KEYS[i])
  elseif expires == '+inf' then redis.call('SET', KEYS[i], text)
  else redis.call('SET', KEYS[i], text, 'EXAT', string.format('%.0f', expires + grace)) end
  redis.call('ZREM', KEYS[4], old_name)
  redis.call('ZREM', KEYS[5], old_name)
  if text ~= '' and new_name ~= '' then
    redis.call('ZADD', KEYS[4], 0, new_name)
    redis.call('ZADD', KEYS[5], expires, new_name)
  end
end
if ends ~= '' then redis.call('SET', KEYS[6], ends, 'EXAT', string.format('%.0f', ends + grace)) end

-- Where changes without a mark came before this one, nobody knows what they changed.
if number ~= changes then keys = '*' end
if accepted ~= 'adopt' then changes = string.format('%.0f', changes + 1) end
if accepted ~= '' and accepted ~= 'adopt' then taken = accepted end
local head = name .. '.' .. (taken or '0') .. '.' .. changes .. '.' .. mark
redis.call('SET', KEYS[1], name .. '.' .. changes)
redis.call('SET', KEYS[2], head)
redis.call('ZADD', KEYS[3], changes, head .. ' ' .. keys)
for _, old in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', changes - window, 'LIMIT', 0, 10)) do
  redis.call('ZREM', KEYS[3], old)
end
return 1
