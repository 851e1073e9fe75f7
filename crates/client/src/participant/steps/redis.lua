-- Carries out the commands of a step and keeps its mark, both or neither.
-- KEYS[1]: the mark. ARGV: milliseconds to keep it; how many texts follow that are its fields and
-- values; these; and for each command how many words it has, and these.
local mark, ttl_ms, at = KEYS[1], ARGV[1], 3 + ARGV[2]
local number = 0
while at <= #ARGV do
  local words = tonumber(ARGV[at])
  local reply = redis.pcall(unpack(ARGV, at + 1, at + words))
  number = number + 1
  if type(reply) == 'table' and reply.err then
    local what = 'command ' .. number .. ': ' .. reply.err
    -- The first has changed nothing. What others before it have changed cannot be taken back.
    if number > 1 then
      redis.call('HSET', mark, 'broken', what)
      redis.call('PEXPIRE', mark, ttl_ms)
    end
    return what
  end
  at = at + words + 1
end
redis.call('HSET', mark, unpack(ARGV, 3, 2 + ARGV[2]))
redis.call('PEXPIRE', mark, ttl_ms)
return ''
