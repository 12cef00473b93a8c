"""What must happen in one step on the server, as Lua. KEYS[1] is a stream, unless said otherwise; its group is always
`unibus`.

Every script checks what it needs before it writes anything, so that an error means that nothing was done. (A server
that is out of memory says so at a script's first write, and lets a script that has written go on.)
"""

from __future__ import annotations

from unibus_redis.calls import Script

GROUP = "unibus"

SEND = Script("""
local call, stream = redis.call, KEYS[1]
if call('EXISTS', stream) == 0 then return 0 end
for i = 1, #ARGV, 2 do call('XADD', stream, '*', 'ce', ARGV[i], 'data', ARGV[i + 1]) end
return 1
""")
"""For each message its context and its body. 0: no such stream."""

SEND_FIELDS = Script("""
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local at = 1
while at <= #ARGV do
  local count = tonumber(ARGV[at])
  redis.call('XADD', KEYS[1], '*', unpack(ARGV, at + 1, at + count))
  at = at + count + 1
end
return 1
""")
"""For each message: the number of its field names and values, and those. 0: no such stream."""

DELAY = Script("""
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local time = redis.call('TIME')
local now, at, number = time[1] * 1000 + math.ceil(time[2] / 1000), 2, 0
while at <= #ARGV do
  local count = tonumber(ARGV[at + 1])
  number = number + 1
  local fields = {}
  for i = 1, count do fields[i] = ARGV[at + 1 + i] end
  local member = cmsgpack.pack({ARGV[1] .. '.' .. number, fields})
  redis.call('ZADD', KEYS[2], string.format('%.0f', now + ARGV[at]), member)
  at = at + count + 2
end
return 1
""")
"""KEYS[2]: the sorted set. ARGV: a text that no other call has, since equal members would be one; and for each message
its delay in ms, the number of its fields, and those. 0: no such stream."""

MOVE = Script("""
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local due = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, ARGV[1])
for _, member in ipairs(due) do
  redis.call('XADD', KEYS[1], '*', unpack(cmsgpack.unpack(member)[2]))
  redis.call('ZREM', KEYS[2], member)
end
local following = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
if #following == 0 then return {#due, -1} end
return {#due, math.max(0, following[2] - now)}
""")
"""KEYS[2]: the sorted set. ARGV: how many at most. Returns how many were moved, and in how many ms the next is due, -1
for none. A stream that is gone is made anew: whoever consumes from it next begins with its first entry."""

PUBLISH = Script("""
local call = redis.call
if (call('GET', KEYS[1]) or '0') ~= ARGV[1] then return 0 end
local lasting, gone, at = tonumber(ARGV[2]), {}, 3
for i = 3, #KEYS do
  local type = call('TYPE', KEYS[i]).ok
  if type ~= 'stream' and type ~= 'none' then
    return redis.error_reply('WRONGTYPE ' .. KEYS[i] .. ' holds a ' .. type .. ', not a stream')
  end
end
local function add(target, ...)
  local stream = KEYS[2 + target]
  if target <= lasting then
    call('XADD', stream, '*', ...)
  elseif not call('XADD', stream, 'NOMKSTREAM', '*', ...) then
    gone[stream] = true
  end
end
while at <= #ARGV do
  local targets, last = {}, at + tonumber(ARGV[at])
  for i = at + 1, last do targets[i - at] = tonumber(ARGV[i]) end
  local plain, first = tonumber(ARGV[last + 1]), last + 2
  if plain > 0 then
    at = first + 2 * plain
    for i = first, at - 1, 2 do
      for _, target in ipairs(targets) do add(target, 'ce', ARGV[i], 'data', ARGV[i + 1]) end
    end
  else
    at = first + 1 + tonumber(ARGV[first])
    for _, target in ipairs(targets) do add(target, unpack(ARGV, first + 1, at - 1)) end
  end
end
for stream in pairs(gone) do
  call('HDEL', KEYS[2], stream)
  call('INCR', KEYS[1])
end
return 1
""")
"""KEYS: the registry's version, the registry, the streams: lasting ones first, then those that may have expired.
ARGV: the version that the publisher knows, the number of lasting streams, and runs: the number of its streams, their
places; then the number of its messages and for each its context and its body; or 0, and of one message the number of
its fields, and those. 0: an old registry."""

_MAKE_GROUP = """
local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], 'unibus', '0', 'MKSTREAM')
if made.err and not string.find(made.err, 'BUSYGROUP') then return made end
"""

DECLARE_QUEUE = Script(f"""
local was = redis.call('GET', KEYS[2])
if was and was ~= ARGV[1] then return was end
{_MAKE_GROUP}
redis.call('SET', KEYS[2], ARGV[1])
return ''
""")
"""KEYS[2]: what the stream was declared with, which is returned if it differs."""

DECLARE_GROUP = Script(f"""
local was = redis.call('HGET', KEYS[3], KEYS[1])
if was and cjson.decode(was).ordering ~= cjson.decode(ARGV[1]).ordering then return was end
{_MAKE_GROUP}
if ARGV[2] ~= '0' then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
if not was or (was ~= ARGV[1] and ARGV[3] == 'replace') then
  redis.call('HSET', KEYS[3], KEYS[1], ARGV[1])
  if redis.call('EXISTS', KEYS[2]) == 0 then
    local time = redis.call('TIME')
    redis.call('SET', KEYS[2], string.format('%.0f', time[1] * 1000000 + time[2]))
  end
  redis.call('INCR', KEYS[2])
end
return ''
""")
"""KEYS: the group's stream, the registry's version, the registry. ARGV: what to register, ms to live or 0,
whether to `replace` the patterns of an earlier declaration. Returns what was declared, if its ordering differs.

The version begins with the time: one that begins anew is none that a publisher may remember."""

FORGET_GROUP = Script("""
redis.call('DEL', KEYS[1])
if redis.call('HDEL', KEYS[3], KEYS[1]) == 1 then redis.call('INCR', KEYS[2]) end
""")

_HOLDS = """
local function holds(id)
  return #redis.call('XPENDING', KEYS[1], 'unibus', id, id, 1, ARGV[1]) > 0
end
"""

ACK = Script(f"""
{_HOLDS}
local lost = {{}}
for i = 2, #ARGV do
  if holds(ARGV[i]) then
    redis.call('XACK', KEYS[1], 'unibus', ARGV[i])
    redis.call('XDEL', KEYS[1], ARGV[i])
  else
    lost[#lost + 1] = ARGV[i]
  end
end
return lost
""")
"""ARGV: the consumer, and ids. Returns those that it does not hold any more."""

ACK_SURE = Script("""
local acked = redis.call('XACK', KEYS[1], 'unibus', unpack(ARGV))
redis.call('XDEL', KEYS[1], unpack(ARGV))
return acked
""")
"""ARGV: ids. Returns how many were pending, whoever held them."""

GIVE_BACK = Script(f"""
{_HOLDS}
local lost = {{}}
for i = 2, #ARGV, 2 do
  local id = ARGV[i]
  if not holds(id) then
    lost[#lost + 1] = id
  else
    local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
    if entry then
      local fields, sent = {{}}, string.match(id, '^%d+')
      for j = 1, #entry[2], 2 do
        if entry[2][j] == 'unibus.sent' then
          sent = entry[2][j + 1]
        elseif entry[2][j] ~= 'unibus.returned' then
          fields[#fields + 1] = entry[2][j]
          fields[#fields + 1] = entry[2][j + 1]
        end
      end
      redis.call('XADD', KEYS[1], '*', 'unibus.returned', ARGV[i + 1], 'unibus.sent', sent, unpack(fields))
    end
    redis.call('XACK', KEYS[1], 'unibus', id)
    redis.call('XDEL', KEYS[1], id)
  end
end
return lost
""")
"""Streams have no way to give an entry back, so it is written anew, with its count of deliveries, in one step.
ARGV: the consumer, and pairs of id and count."""

RENEW = Script(f"""
{_HOLDS}
local lost = {{}}
for i = 3, #ARGV do
  if holds(ARGV[i]) then
    redis.call('XCLAIM', KEYS[1], 'unibus', ARGV[1], 0, ARGV[i], 'IDLE', ARGV[2], 'JUSTID')
  else
    lost[#lost + 1] = ARGV[i]
  end
end
return lost
""")
"""ARGV: the consumer, ms for which the lease has run already, and ids."""

OWN = Script("""
local found, trimmed, last = {}, 0, false
for _, pending in ipairs(redis.call('XPENDING', KEYS[1], 'unibus', ARGV[2], '+', ARGV[3], ARGV[1])) do
  last = pending[1]
  local entry = redis.call('XRANGE', KEYS[1], last, last)[1]
  if entry then
    redis.call('XCLAIM', KEYS[1], 'unibus', ARGV[1], 0, last, 'JUSTID')
    found[#found + 1] = {last, entry[2], pending[4]}
  else
    redis.call('XACK', KEYS[1], 'unibus', last)
    trimmed = trimmed + 1
  end
end
return {found, trimmed, last}
""")
"""What the server believes that a consumer holds: each with its fields and its count, renewed; how many of it were
trimmed; and the last id, to go on behind it. ARGV: the consumer, where to begin, how many."""

CLAIM = Script("""
local reply = redis.call('XAUTOCLAIM', KEYS[1], 'unibus', ARGV[1], ARGV[2], ARGV[3], 'COUNT', ARGV[4])
local counts = {}
for i, entry in ipairs(reply[2]) do
  counts[i] = redis.call('XPENDING', KEYS[1], 'unibus', entry[1], entry[1], 1)[1][4]
end
return {reply[1], reply[2], counts, #reply[3]}
""")
"""ARGV: the consumer, ms of idleness, where to begin, how many. Returns the next beginning, entries, their counts, and
how many were trimmed while they were pending."""

LEAVE = Script("""
if #redis.call('XPENDING', KEYS[1], 'unibus', '-', '+', 1, ARGV[1]) == 0 then
  redis.call('XGROUP', 'DELCONSUMER', KEYS[1], 'unibus', ARGV[1])
end
if redis.call('GET', KEYS[2]) == ARGV[1] then redis.call('DEL', KEYS[2]) end
""")
"""KEYS[2]: who is the active one. A consumer that still has entries stays: deleting it would lose them."""

SWEEP = Script("""
for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], 'unibus')) do
  local known = {}
  for i = 1, #consumer, 2 do known[consumer[i]] = consumer[i + 1] end
  if known.pending == 0 and known.idle > tonumber(ARGV[1]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], 'unibus', known.name)
  end
end
""")
"""Delete consumers that died and have nothing pending any more. ARGV: ms of idleness, far beyond a live one's."""

ACTIVATE = Script("""
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return 1
end
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return 2 end
return 0
""")
"""KEYS[1]: who is the active one. ARGV: the consumer, ms. 0: another is, 1: we are still, 2: we are now."""

WIN = Script("""
local won = {}
for i = 1, #KEYS do
  won[i] = redis.call('SET', KEYS[i], '1', 'NX', 'EX', ARGV[1]) and 1 or 0
end
return won
""")
"""KEYS: messages. ARGV: seconds for which it is remembered who won. 1 for each that is ours."""

ANNOUNCE = Script("for i = 1, #ARGV, 2 do redis.call('PUBLISH', ARGV[i], ARGV[i + 1]) end")
"""ARGV: pairs of channel and message."""
