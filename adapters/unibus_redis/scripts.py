"""What must happen in one step on the server, as Lua. KEYS[1] is a stream; its group is always `unibus`."""

from __future__ import annotations

GROUP = "unibus"

SEND = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local at = 1
while at <= #ARGV do
  local count = tonumber(ARGV[at])
  redis.call('XADD', KEYS[1], '*', unpack(ARGV, at + 1, at + count))
  at = at + count + 1
end
return 1
"""
"""For each message: the number of its field names and values, and those. 0: no such stream."""

PUBLISH = """
if (redis.call('GET', KEYS[1]) or '0') ~= ARGV[1] then return 0 end
local lasting, gone, at = tonumber(ARGV[2]), {}, 3
while at <= #ARGV do
  local last = at + tonumber(ARGV[at])
  local count = tonumber(ARGV[last + 1])
  for target = at + 1, last do
    local index = tonumber(ARGV[target])
    local stream = KEYS[2 + index]
    if index <= lasting then
      redis.call('XADD', stream, '*', unpack(ARGV, last + 2, last + 1 + count))
    elseif not redis.call('XADD', stream, 'NOMKSTREAM', '*', unpack(ARGV, last + 2, last + 1 + count)) then
      gone[stream] = true
    end
  end
  at = last + count + 2
end
for stream in pairs(gone) do
  redis.call('HDEL', KEYS[2], stream)
  redis.call('INCR', KEYS[1])
end
return 1
"""
"""KEYS: the registry's version, the registry, the streams: lasting ones first, then those that may
have expired. ARGV: the version that the publisher knows, the number of lasting streams, and for each
message the number of its streams, their places, the number of its fields, and those. 0: an old registry."""

DECLARE_QUEUE = """
local was = redis.call('HGET', KEYS[2], KEYS[1])
if was and was ~= ARGV[1] then return was end
local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], 'unibus', '0', 'MKSTREAM')
if made.err and not string.find(made.err, 'BUSYGROUP') then return made end
redis.call('HSET', KEYS[2], KEYS[1], ARGV[1])
return ''
"""
"""KEYS[2]: the hash of queues. Returns what the queue was declared with, if that differs."""

DECLARE_GROUP = """
local was = redis.call('HGET', KEYS[3], KEYS[1])
if was and was ~= ARGV[1] then return was end
local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], 'unibus', '0', 'MKSTREAM')
if made.err and not string.find(made.err, 'BUSYGROUP') then return made end
if ARGV[2] ~= '0' then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
if not was then
  redis.call('HSET', KEYS[3], KEYS[1], ARGV[1])
  redis.call('INCR', KEYS[2])
end
return ''
"""
"""KEYS: the group's stream, the registry's version, the registry. ARGV: what to register, ms to live or 0."""

FORGET_GROUP = """
redis.call('DEL', KEYS[1])
if redis.call('HDEL', KEYS[3], KEYS[1]) == 1 then redis.call('INCR', KEYS[2]) end
"""

ACK = """
local lost = {}
for i = 2, #ARGV do
  if #redis.call('XPENDING', KEYS[1], 'unibus', ARGV[i], ARGV[i], 1, ARGV[1]) == 0 then
    lost[#lost + 1] = ARGV[i]
  else
    redis.call('XACK', KEYS[1], 'unibus', ARGV[i])
    redis.call('XDEL', KEYS[1], ARGV[i])
  end
end
return lost
"""
"""ARGV: the consumer, and ids. Returns those that it does not hold any more."""

GIVE_BACK = """
local lost = {}
for i = 2, #ARGV, 2 do
  local id = ARGV[i]
  if #redis.call('XPENDING', KEYS[1], 'unibus', id, id, 1, ARGV[1]) == 0 then
    lost[#lost + 1] = id
  else
    local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
    redis.call('XACK', KEYS[1], 'unibus', id)
    redis.call('XDEL', KEYS[1], id)
    if entry then
      local fields, sent = {}, string.match(id, '^%d+')
      for j = 1, #entry[2], 2 do
        if entry[2][j] == 'sent' then
          sent = entry[2][j + 1]
        elseif entry[2][j] ~= 'returned' then
          fields[#fields + 1] = entry[2][j]
          fields[#fields + 1] = entry[2][j + 1]
        end
      end
      redis.call('XADD', KEYS[1], '*', 'returned', ARGV[i + 1], 'sent', sent, unpack(fields))
    end
  end
end
return lost
"""
"""Streams have no way to give an entry back, so it is written anew, with its count of deliveries, in one step.
ARGV: the consumer, and pairs of id and count."""

RENEW = """
local lost = {}
for i = 3, #ARGV do
  if #redis.call('XPENDING', KEYS[1], 'unibus', ARGV[i], ARGV[i], 1, ARGV[1]) == 0 then
    lost[#lost + 1] = ARGV[i]
  else
    redis.call('XCLAIM', KEYS[1], 'unibus', ARGV[1], 0, ARGV[i], 'IDLE', ARGV[2], 'JUSTID')
  end
end
return lost
"""
"""ARGV: the consumer, ms for which the lease has run already, and ids."""

CLAIM = """
local reply = redis.call('XAUTOCLAIM', KEYS[1], 'unibus', ARGV[1], ARGV[2], ARGV[3], 'COUNT', ARGV[4])
local counts = {}
for i, entry in ipairs(reply[2]) do
  counts[i] = redis.call('XPENDING', KEYS[1], 'unibus', entry[1], entry[1], 1)[1][4]
end
return {reply[1], reply[2], counts}
"""
"""ARGV: the consumer, ms of idleness, where to begin, how many. Returns the next beginning, entries, their counts."""

LEAVE = """
if #redis.call('XPENDING', KEYS[1], 'unibus', '-', '+', 1, ARGV[1]) == 0 then
  redis.call('XGROUP', 'DELCONSUMER', KEYS[1], 'unibus', ARGV[1])
end
if redis.call('GET', KEYS[2]) == ARGV[1] then redis.call('DEL', KEYS[2]) end
"""
"""A consumer that still has entries stays: deleting it would lose them."""

ACTIVATE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return 1
end
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return 2 end
return 0
"""
"""KEYS[1]: who is the active one. ARGV: the consumer, ms. 0: another is, 1: we are still, 2: we are now."""
