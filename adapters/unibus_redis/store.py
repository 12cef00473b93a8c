"""Idempotency keys on Redis: each call of the store is one script, whatever the number of keys.

A key is a hash of owner, fence and until when it is claimed (the server's time), or of that it is done. It is gone
when it means nothing any more, so that what lies there is bounded. Fences come from one counter, and so rise for
every key, and go on rising when a key is forgotten in between.
"""

from __future__ import annotations

from collections.abc import Sequence

from unibus.driver import Clock, Url
from unibus.errors import NotOpen
from unibus.idempotency.store import Claim, Done, Held, InProgress, New
from unibus_redis import keys
from unibus_redis.calls import Calls, Script
from unibus_redis.link import Argument
from unibus_redis.options import endpoint

_FORGOTTEN_LATER = 24 * 3600
"""Seconds for which a claim that lapsed is still its owner's, unless somebody else takes the key."""

_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

_CLAIM = Script(f"""{_NOW}
local owner, lease, kept = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local answers = {{}}
for i = 2, #KEYS do
  local was = redis.call('HMGET', KEYS[i], 'owner', 'until')
  if was[1] and not was[2] then
    answers[i - 1] = {{'done'}}
  elseif was[2] and tonumber(was[2]) > now then
    answers[i - 1] = {{'claimed', was[1], tonumber(was[2]) - now}}
  else
    local fence = redis.call('INCR', KEYS[1])
    redis.call('HSET', KEYS[i], 'owner', owner, 'fence', fence, 'until', string.format('%.0f', now + lease))
    redis.call('PEXPIRE', KEYS[i], lease + kept)
    answers[i - 1] = {{'new', fence}}
  end
end
return answers
""")
"""KEYS: the counter of fences, and the keys. ARGV: owner, ms of the lease, ms for which a lapsed claim is kept."""

_OURS = """
local function ours(i)
  local was = redis.call('HMGET', KEYS[i], 'owner', 'fence', 'until')
  return was[3] and was[1] == ARGV[2 * i] and was[2] == ARGV[2 * i + 1]
end
local answers = {}
"""
"""ARGV: a number, and pairs of owner and fence."""

_COMPLETE = Script(f"""{_OURS}
for i = 1, #KEYS do
  answers[i] = 0
  if ours(i) then
    redis.call('HDEL', KEYS[i], 'until', 'fence')
    redis.call('PEXPIRE', KEYS[i], ARGV[1])
    answers[i] = 1
  end
end
return answers
""")
"""ARGV[1]: ms for which it is remembered that they are done."""

_RELEASE = Script(f"""{_OURS}
for i = 1, #KEYS do
  answers[i] = 0
  if ours(i) then
    redis.call('DEL', KEYS[i])
    answers[i] = 1
  end
end
return answers
""")

_RENEW = Script(f"""{_NOW}{_OURS}
for i = 1, #KEYS do
  answers[i] = 0
  if ours(i) then
    redis.call('HSET', KEYS[i], 'until', string.format('%.0f', now + ARGV[1]))
    redis.call('PEXPIRE', KEYS[i], ARGV[1] + {_FORGOTTEN_LATER * 1000})
    answers[i] = 1
  end
end
return answers
""")
"""ARGV[1]: ms of the lease."""

_KEY = f"{keys.TAG}.idempotency."
_FENCES = f"{keys.TAG}.fences"


class RedisStore:
    """`@idempotent(store="redis://…")`. In a cluster all keys lie in one slot: a call claims many of them at once."""

    def __init__(self, url: Url, clock: Clock) -> None:
        self._endpoint = endpoint(url)
        self._clock = clock
        self._calls: Calls | None = None

    async def open(self) -> None:
        await self.close()
        calls = Calls(self._endpoint, self._clock)
        try:
            await calls.open()
        except BaseException:
            await calls.close()
            raise
        self._calls = calls

    async def close(self) -> None:
        calls, self._calls = self._calls, None
        if calls is not None:
            await calls.close()

    async def claim(self, keys: Sequence[str], owner: str, lease: float) -> Sequence[Claim]:
        names = [_FENCES, *[_KEY + key for key in keys]]
        milliseconds = _milliseconds(lease)
        answers = await self._run(_CLAIM, names, [owner, milliseconds, _FORGOTTEN_LATER * 1000])
        return [_claim(answer) for answer in answers]

    async def complete(self, items: Sequence[Held], ttl: float) -> Sequence[bool]:
        return await self._change(_COMPLETE, items, _milliseconds(ttl))

    async def release(self, items: Sequence[Held]) -> Sequence[bool]:
        return await self._change(_RELEASE, items, 0)

    async def renew(self, items: Sequence[Held], lease: float) -> Sequence[bool]:
        return await self._change(_RENEW, items, _milliseconds(lease))

    async def _change(self, script: Script, items: Sequence[Held], number: int) -> Sequence[bool]:
        arguments: list[Argument] = [number]
        for item in items:
            arguments += (item.owner, item.fence)
        answers = await self._run(script, [_KEY + item.key for item in items], arguments)
        return [bool(answer) for answer in answers]

    async def _run(self, script: Script, names: Sequence[str], arguments: Sequence[Argument]) -> list[list[bytes]]:
        if self._calls is None:
            raise NotOpen("the idempotency store is not open; call open() first")
        if not names:
            return []
        answers: list[list[bytes]] = await self._calls.script(script, names, arguments)
        return answers


def _claim(answer: Sequence[bytes]) -> Claim:
    if answer[0] == b"new":
        return New(int(answer[1]))
    if answer[0] == b"claimed":
        return InProgress(answer[1].decode(), int(answer[2]) / 1000)
    return Done()


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
