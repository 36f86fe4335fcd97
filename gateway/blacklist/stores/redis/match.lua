-- Finds entries whose key begins with ARGV[2] among the 10,000 before the name ARGV[1].
-- KEYS: created. Answers their names, and the last name looked at, "" at the end of the list.
local names = redis.call('ZREVRANGEBYLEX', KEYS[1], ARGV[1], '-', 'LIMIT', 0, 10000)
local found = {}
for _, name in ipairs(names) do
  if string.sub(name, 14, 13 + #ARGV[2]) == ARGV[2] then found[#found + 1] = name end
end
return {found, names[#names] or ''}
