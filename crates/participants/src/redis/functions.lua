#!lua name=unanimous_v1

-- What Unanimous runs inside Redis: branches that are prepared, locks on their keys, and what became
-- of each. Redis runs a function whole, and keeps its writes in the append-only file as one unit.
--
-- Below the root, KEYS[1], which is `unanimous:{tag}`:
--   <root>:branch:<name>  hash: state (prepared, committed, rolled_back), and while it is prepared
--                         its body and results; what has ended expires
--   <root>:prepared       sorted set: names of what is prepared, by the time since when in ms
--   <root>:locks          hash: key -> the branch that holds it
--
-- Work is carried out when it is prepared, to see that it can be and what comes of it, and taken back
-- within the same call; a commit carries it out again. A prepared branch always holds every key that
-- its body names. Every function may be repeated. Other versions of this library share the keys.

local OUTCOME_KEPT_MS = 7 * 24 * 60 * 60 * 1000
local TOMBSTONE_KEPT_MS = 60 * 60 * 1000
local RESULT_BYTES_MAX = 65536

local function digits(number)
  return string.format('%.0f', number)
end

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function record_of(root, name)
  return root .. ':branch:' .. name
end

-- Says that the work cannot be done, in the vote's own word for why.
local function refuse(kind, detail)
  error({ kind = kind, detail = detail }, 0)
end

-- A run is the carrying out of one body: how to take it back, and what to throw away if it stays.

local function new_run(root)
  return { root = root, undo = {}, shadows = {} }
end

local function later(run, undo)
  run.undo[#run.undo + 1] = undo
end

local function take_back(run)
  for index = #run.undo, 1, -1 do
    run.undo[index]()
  end
end

local function keep(run)
  for _, shadow in ipairs(run.shadows) do
    redis.call('UNLINK', shadow)
  end
end

-- Moves a key out of sight, whatever its type and size, with its lifetime.
local function set_aside(run, key)
  local shadow = run.root .. ':shadow:' .. #run.shadows
  redis.call('RENAME', key, shadow)
  run.shadows[#run.shadows + 1] = shadow
  later(run, function() redis.call('RENAME', shadow, key) end)
end

local function exists(key)
  return redis.call('EXISTS', key) == 1
end

-- A collection that loses its last element goes, and its lifetime with it.
local function give_lifetime(key, expires_at)
  if expires_at > 0 then
    redis.call('PEXPIREAT', key, digits(expires_at))
  end
end

local function every_second(command, first)
  local list = {}
  for index = first, #command, 2 do list[#list + 1] = command[index] end
  return list
end

local function rest(command, first)
  local list = {}
  for index = first, #command do list[#list + 1] = command[index] end
  return list
end

local function number_step(run, command)
  local key = command[2]
  local old = redis.call('GET', key)
  redis.call(unpack(command))
  later(run, function()
    if old then redis.call('SET', key, old, 'KEEPTTL') else redis.call('DEL', key) end
  end)
  -- The reply itself has been through a floating-point number.
  return { integer = redis.call('GET', key) }
end

local function set_step(run, command)
  local key, option = command[2], command[4]
  local lifetimes = { EX = true, PX = true, EXAT = true, PXAT = true }
  if #command ~= 3 and not (#command == 5 and lifetimes[string.upper(option)]) then
    refuse('command', 'SET takes a key, a value, and EX, PX, EXAT or PXAT with a number')
  end
  if exists(key) then
    set_aside(run, key)
  else
    later(run, function() redis.call('DEL', key) end)
  end
  return redis.call(unpack(command))
end

local function delete_step(run, command)
  local count = 0
  for index = 2, #command do
    if exists(command[index]) then
      set_aside(run, command[index])
      count = count + 1
    end
  end
  return count
end

local function hash_step(fields_of, reply_of)
  return function(run, command)
    local key, fields = command[2], fields_of(command)
    local expires_at = redis.call('PEXPIRETIME', key)
    local olds = {}
    for index, field in ipairs(fields) do olds[index] = redis.call('HGET', key, field) end
    local reply = redis.call(unpack(command))
    later(run, function()
      for index, field in ipairs(fields) do
        if olds[index] then
          redis.call('HSET', key, field, olds[index])
        else
          redis.call('HDEL', key, field)
        end
      end
      give_lifetime(key, expires_at)
    end)
    return reply_of and reply_of(command) or reply
  end
end

local function set_members_step(opposite, present)
  return function(run, command)
    local key, changed = command[2], {}
    local expires_at = redis.call('PEXPIRETIME', key)
    for _, member in ipairs(rest(command, 3)) do
      if redis.call('SISMEMBER', key, member) == present then changed[#changed + 1] = member end
    end
    local reply = redis.call(unpack(command))
    later(run, function()
      if #changed > 0 then redis.call(opposite, key, unpack(changed)) end
      give_lifetime(key, expires_at)
    end)
    return reply
  end
end

local function scores_step(members_of)
  return function(run, command)
    local key, members = command[2], members_of(command)
    local expires_at = redis.call('PEXPIRETIME', key)
    local olds = {}
    for index, member in ipairs(members) do olds[index] = redis.call('ZSCORE', key, member) end
    local reply = redis.call(unpack(command))
    later(run, function()
      for index, member in ipairs(members) do
        if olds[index] then
          redis.call('ZADD', key, olds[index], member)
        else
          redis.call('ZREM', key, member)
        end
      end
      give_lifetime(key, expires_at)
    end)
    return reply
  end
end

local function scored_members(command)
  if #command % 2 ~= 0 or not tonumber(command[3]) then
    refuse('command', 'ZADD takes a key and pairs of a score and a member')
  end
  return every_second(command, 4)
end

local function push_step(pop)
  return function(run, command)
    local reply = redis.call(unpack(command))
    later(run, function() redis.call(pop, command[2], #command - 2) end)
    return reply
  end
end

local function pop_step(push)
  return function(run, command)
    local key = command[2]
    local expires_at = redis.call('PEXPIRETIME', key)
    local reply = redis.call(unpack(command))
    if reply then
      local popped = type(reply) == 'table' and reply or { reply }
      later(run, function()
        for index = #popped, 1, -1 do redis.call(push, key, popped[index]) end
        give_lifetime(key, expires_at)
      end)
    end
    return reply
  end
end

local function expire_step(ms_each)
  return function(run, command)
    local key, at = command[2], tonumber(command[3])
    if #command ~= 3 or not at then
      refuse('command', command[1] .. ' takes a key and a time')
    end
    if not exists(key) then return 0 end
    if at * ms_each <= now_ms() then
      set_aside(run, key)
      return 1
    end
    local expires_at = redis.call('PEXPIRETIME', key)
    local reply = redis.call(unpack(command))
    later(run, function()
      redis.call('PERSIST', key)
      give_lifetime(key, expires_at)
    end)
    return reply
  end
end

local function persist_step(run, command)
  local key = command[2]
  local expires_at = redis.call('PEXPIRETIME', key)
  local reply = redis.call(unpack(command))
  later(run, function() give_lifetime(key, expires_at) end)
  return reply
end

local function read_step(_, command)
  return redis.call(unpack(command))
end

local function third(command)
  return { command[3] }
end

-- Each of one key, and with an answer of bounded size but for GET, HGET and LINDEX.
local READERS = {
  GET = read_step, STRLEN = read_step, EXISTS = read_step, HGET = read_step, HEXISTS = read_step,
  HLEN = read_step, SISMEMBER = read_step, SCARD = read_step, ZSCORE = read_step,
  ZCARD = read_step, LLEN = read_step, LINDEX = read_step,
}

local STEPS = {
  SET = set_step, DEL = delete_step,
  INCR = number_step, DECR = number_step, INCRBY = number_step, DECRBY = number_step,
  HSET = hash_step(function(command) return every_second(command, 3) end),
  HDEL = hash_step(function(command) return rest(command, 3) end),
  HINCRBY = hash_step(third, function(command)
    return { integer = redis.call('HGET', command[2], command[3]) }
  end),
  SADD = set_members_step('SREM', 0), SREM = set_members_step('SADD', 1),
  ZADD = scores_step(scored_members),
  ZREM = scores_step(function(command) return rest(command, 3) end),
  ZINCRBY = scores_step(function(command) return { command[4] } end),
  LPUSH = push_step('LPOP'), RPUSH = push_step('RPOP'),
  LPOP = pop_step('LPUSH'), RPOP = pop_step('RPUSH'),
  EXPIREAT = expire_step(1000), PEXPIREAT = expire_step(1), PERSIST = persist_step,
}

-- What taking a change back may need. A right that is missing must be seen before anything is changed.
local RIGHTS = {
  { 'SET', '0' }, { 'DEL' }, { 'RENAME', '0' }, { 'HSET', '0', '0' }, { 'HDEL', '0' },
  { 'SADD', '0' }, { 'SREM', '0' }, { 'ZADD', '0', '0' }, { 'ZREM', '0' }, { 'LPUSH', '0' },
  { 'RPUSH', '0' }, { 'LPOP' }, { 'RPOP' }, { 'PEXPIREAT', '1' }, { 'PERSIST' }, { 'PEXPIRETIME' },
  { 'EXISTS' },
}

local function check_rights(root, keys)
  for _, key in ipairs(keys) do
    for _, right in ipairs(RIGHTS) do
      local second = right[1] == 'RENAME' and root .. ':shadow:0' or right[2]
      local arguments = { right[1], key, second, right[3] }
      if not redis.acl_check_cmd(unpack(arguments)) then
        refuse('permission', 'the user may not run ' .. right[1] .. ' on ' .. key
          .. ', which taking changes back can need')
      end
    end
  end
end

-- Conditions and expectations

local function quoted(value)
  return value and '"' .. string.sub(value, 1, 100) .. '"' or 'absent'
end

local function is_number(text)
  return text and string.match(text, '^[+-]?%d+%.?%d*[eE]?[+-]?%d*$') or text == 'inf' or text == '-inf'
end

-- Whether one number is less than another, with every digit of whole numbers.
local function less(one, other)
  local x, y = tonumber(one), tonumber(other)
  local whole = '^(-?)0*(%d+)$'
  local sign_x, digits_x = string.match(one, whole)
  local sign_y, digits_y = string.match(other, whole)
  if not (digits_x and digits_y) or sign_x ~= sign_y or x ~= y then return x < y end
  if #digits_x ~= #digits_y then return (#digits_x < #digits_y) == (sign_x == '') end
  if digits_x == digits_y then return false end
  return (digits_x < digits_y) == (sign_x == '')
end

-- The type of what is at the key, and the value there or at its field; nil if there is none.
local function value_of(check)
  local kind = redis.call('TYPE', check.key).ok
  local value
  if not check.field then
    value = kind == 'string' and redis.call('GET', check.key)
  elseif kind == 'hash' then
    value = redis.call('HGET', check.key, check.field)
  elseif kind == 'zset' then
    value = redis.call('ZSCORE', check.key, check.field)
  elseif kind == 'set' then
    value = redis.call('SISMEMBER', check.key, check.field) == 1 and check.field
  end
  return kind, value or nil
end

local function check_one(check)
  local kind, value = value_of(check)
  local name = check.field and check.key .. ' ' .. check.field or check.key
  local there = value ~= nil
  if not check.field then there = kind ~= 'none' end
  local function fail(what) refuse('expectation', name .. ' is ' .. what) end
  if check.exists == true and not there then fail('absent, expected to exist') end
  if check.exists == false and there then fail('there, expected to be absent') end
  if check.type and kind ~= check.type then fail('of type ' .. kind .. ', expected ' .. check.type) end
  if check.equals and value ~= check.equals then
    fail(quoted(value) .. ', expected ' .. quoted(check.equals))
  end
  if check.at_least and not (is_number(value) and not less(value, check.at_least)) then
    fail((value or 'absent') .. ', expected at least ' .. check.at_least)
  end
  if check.at_most and not (is_number(value) and not less(check.at_most, value)) then
    fail((value or 'absent') .. ', expected at most ' .. check.at_most)
  end
end

-- The whole body

-- A problem of ours as it is, and an error of Redis or Lua with its text as detail. Redis's own `pcall`
-- would throw away everything else beside a field `err`.
local function explained(problem)
  if type(problem) == 'table' and problem.detail then return problem end
  local text = type(problem) == 'table' and problem.err or tostring(problem)
  return { reply = text, detail = text }
end

-- Calls `part` for each of a list, and says of a refusal which of them it was.
local function each(list, what, part)
  for index, one in ipairs(list or {}) do
    local ok, problem = pcall(part, one, index)
    if not ok then
      problem = explained(problem)
      problem.detail = what .. ' ' .. index .. ': ' .. problem.detail
      error(problem, 0)
    end
  end
end

local function encoded(reply)
  if type(reply) == 'table' and reply.integer then return reply.integer end
  if type(reply) == 'table' and reply.ok then return cjson.encode(reply.ok) end
  if type(reply) == 'number' then return digits(reply) end
  if type(reply) == 'string' then return cjson.encode(reply) end
  if type(reply) == 'table' then
    local list = {}
    for index, one in ipairs(reply) do list[index] = encoded(one) end
    return '[' .. table.concat(list, ',') .. ']'
  end
  return 'null'
end

-- The keys that a body names, each once. Refuses what is not a command for a branch.
local function keys_of(body)
  local keys, seen = {}, {}
  local function add(key)
    if type(key) ~= 'string' or key == '' then refuse('command', 'it names no key') end
    if string.sub(key, 1, 11) == 'unanimous:{' then refuse('command', key .. ' is a key of Unanimous') end
    if not seen[key] then
      seen[key] = true
      keys[#keys + 1] = key
    end
  end
  each(body.commands, 'command', function(command)
    if not STEPS[command[1]] and not READERS[command[1]] then
      refuse('command', tostring(command[1]) .. ' is not for a branch')
    end
    if command[1] == 'EXISTS' and #command > 2 then refuse('command', 'EXISTS takes one key') end
    local last = command[1] == 'DEL' and math.max(2, #command) or 2
    for index = 2, last do add(command[index]) end
  end)
  each(body.conditions, 'condition', function(check) add(check.key) end)
  each(body.expect, 'expectation', function(check) add(check.key) end)
  return keys
end

-- Whether a body stays prepared: it changes something, or what it asks for must go on holding.
local function stays(body)
  for _, command in ipairs(body.commands or {}) do
    if STEPS[command[1]] then return true end
  end
  return body.conditions ~= nil or body.expect ~= nil
end

local function locked(root, name, keys)
  for _, key in ipairs(keys) do
    local holder = redis.call('HGET', root .. ':locks', key)
    if holder and holder ~= name then return { 'LOCKED', key, holder } end
  end
end

-- Carries commands out; after a refusal none of them is. Returns results, or nothing and the problem.
local function carry_out(run, body)
  local results, bytes = {}, 0
  local ok, problem = pcall(function()
    each(body.conditions, 'condition', check_one)
    each(body.commands, 'command', function(command, index)
      local step = STEPS[command[1]] or READERS[command[1]]
      local result = encoded(step(run, command))
      bytes = bytes + #result
      results[index] = bytes > RESULT_BYTES_MAX and '{"truncated":true}' or result
    end)
    each(body.expect, 'expectation', check_one)
  end)
  if ok then return '[' .. table.concat(results, ',') .. ']' end
  take_back(run)
  return nil, problem
end

local function end_as(root, name, state, kept_ms, why)
  local record = record_of(root, name)
  redis.call('DEL', record)
  redis.call('HSET', record, 'state', state, 'why', why or '')
  redis.call('PEXPIRE', record, digits(kept_ms))
  redis.call('ZREM', root .. ':prepared', name)
end

local function unlock(root, name, keys)
  for _, key in ipairs(keys) do
    if redis.call('HGET', root .. ':locks', key) == name then
      redis.call('HDEL', root .. ':locks', key)
    end
  end
end

local function body_of(root, name)
  return cjson.decode(redis.call('HGET', record_of(root, name), 'body'))
end

local function refused(problem)
  local no = explained(problem)
  return { 'NO', no.kind or '', no.detail, no.reply or '' }
end

-- prepare NAME BODY first|again -> YES results | READ results | NO kind detail error
--                                  | LOCKED key holder | ENDED state
-- After an attempt whose answer was lost, a refusal leaves a tombstone: that attempt may still come.
local function prepare(keys, args)
  local root, name = keys[1], args[1]
  local record = record_of(root, name)
  local state = redis.call('HGET', record, 'state')
  if state == 'prepared' then return { 'YES', redis.call('HGET', record, 'results') } end
  if state then return { 'ENDED', state } end
  local body = cjson.decode(args[2])
  local run = new_run(root)
  local ok, came = pcall(function()
    local named = keys_of(body)
    local held = stays(body) and locked(root, name, named)
    if held then return held end
    if stays(body) then check_rights(root, named) end
    local results, refusal = carry_out(run, body)
    if refusal then error(refusal, 0) end
    if not stays(body) then return { 'READ', results } end
    take_back(run)
    for _, key in ipairs(named) do redis.call('HSET', root .. ':locks', key, name) end
    redis.call('HSET', record, 'state', 'prepared', 'body', args[2], 'results', results)
    redis.call('ZADD', root .. ':prepared', digits(now_ms()), name)
    return { 'YES', results }
  end)
  if ok then return came end
  if args[3] == 'again' then end_as(root, name, 'rolled_back', TOMBSTONE_KEPT_MS) end
  return refused(came)
end

-- commit NAME -> DONE | ENDED state why | UNKNOWN
local function commit(keys, args)
  local root, name = keys[1], args[1]
  local state = redis.call('HGET', record_of(root, name), 'state')
  if not state then return { 'UNKNOWN' } end
  if state == 'committed' then return { 'DONE' } end
  if state == 'rolled_back' then
    return { 'ENDED', state, redis.call('HGET', record_of(root, name), 'why') }
  end
  local body = body_of(root, name)
  local run = new_run(root)
  local results, problem = carry_out(run, { commands = body.commands })
  unlock(root, name, keys_of(body))
  if not results then
    -- Somebody has written to the keys past the locks, so that the commands do not fit any more.
    local why = refused(problem)[3]
    end_as(root, name, 'rolled_back', OUTCOME_KEPT_MS, why)
    return { 'ENDED', 'rolled_back', why }
  end
  keep(run)
  end_as(root, name, 'committed', OUTCOME_KEPT_MS)
  return { 'DONE' }
end

-- rollback NAME [by_hand] -> DONE | ENDED state
-- What is not known is refused from now on. Ended by hand, it is told to who comes to commit it.
local function rollback(keys, args)
  local root, name = keys[1], args[1]
  local state = redis.call('HGET', record_of(root, name), 'state')
  if state == 'committed' then return { 'ENDED', state } end
  if state == 'rolled_back' then return { 'DONE' } end
  if state == 'prepared' then unlock(root, name, keys_of(body_of(root, name))) end
  local kept_ms = args[2] == 'by_hand' and OUTCOME_KEPT_MS or TOMBSTONE_KEPT_MS
  end_as(root, name, 'rolled_back', kept_ms)
  return { 'DONE' }
end

-- prepared -> name, ms, name, ms, …
-- Not declared as read-only, so that a replica, which may be behind, refuses it.
local function prepared(keys)
  return redis.call('ZRANGE', keys[1] .. ':prepared', 0, -1, 'WITHSCORES')
end

-- forget NAME… : nobody will ask any more that these were committed.
local function forget(keys, args)
  for _, name in ipairs(args) do
    local record = record_of(keys[1], name)
    if redis.call('HGET', record, 'state') == 'committed' then redis.call('UNLINK', record) end
  end
  return redis.status_reply('OK')
end

-- write BODY -> results. For programs that share keys with transactions: refused while one is locked.
local function write(keys, args)
  local root, body = keys[1], cjson.decode(args[1])
  local run = new_run(root)
  local ok, came = pcall(function()
    local named = keys_of(body)
    local held = locked(root, '', named)
    if held then refuse('locked', held[2] .. ' is locked by ' .. held[3]) end
    check_rights(root, named)
    local results, refusal = carry_out(run, body)
    if refusal then error(refusal, 0) end
    keep(run)
    return results
  end)
  if ok then return came end
  local no = refused(came)
  return redis.error_reply((no[2] == '' and 'REFUSED' or string.upper(no[2])) .. ' ' .. no[3])
end

-- What sets locks free has to work when memory is full.
local FREEING = { 'allow-oom' }

redis.register_function('unanimous_v1_prepare', prepare)
redis.register_function('unanimous_v1_write', write)
redis.register_function { function_name = 'unanimous_v1_commit', callback = commit, flags = FREEING }
redis.register_function { function_name = 'unanimous_v1_rollback', callback = rollback, flags = FREEING }
redis.register_function { function_name = 'unanimous_v1_prepared', callback = prepared, flags = FREEING }
redis.register_function { function_name = 'unanimous_v1_forget', callback = forget, flags = FREEING }
