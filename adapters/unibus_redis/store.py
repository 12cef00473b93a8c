"""Idempotency keys on Redis: each call of the store is one script, whatever the number of keys.

A key is a text: of who claimed it, its fence and until when (the server's time), or of that it is done. It is gone
when it means nothing any more, so that what lies there is bounded. Fences come from one counter, and so rise for
every key, and go on rising when a key is forgotten in between.

An owner who claims what he has claimed already is given it anew: the answer that he lacks was lost on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from unibus.driver import Clock, Url
from unibus.errors import NotOpen
from unibus.idempotency.store import Claim, Done, Held, InProgress, New
from unibus_redis import keys
from unibus_redis.calls import Calls, Script
from unibus_redis.link import Argument
from unibus_redis.options import endpoint

_FORGOTTEN_LATER = 24 * 3600
"""Seconds for which a claim that lapsed is still its owner's, unless somebody else takes the key."""

_DONE = "done"

_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

_CLAIM = Script(f"""{_NOW}
local owner, lease, kept = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local last = redis.call('INCRBY', KEYS[1], #KEYS - 1)
local before, ends = last - #KEYS + 1, string.format('%.0f', now + lease)
local answers = {{before}}
for i = 2, #KEYS do
  local mine = owner .. ' ' .. string.format('%.0f', before + i - 1) .. ' ' .. ends
  local was = redis.call('SET', KEYS[i], mine, 'NX', 'GET', 'PX', lease + kept)
  if was == '{_DONE}' then
    answers[#answers + 1] = {{i - 2}}
  elseif was then
    local other, left = string.match(was, '^(.*) %d+ (%d+)$')
    left = tonumber(left) - now
    if left > 0 and other ~= owner then
      answers[#answers + 1] = {{i - 2, other, left}}
    else
      redis.call('SET', KEYS[i], mine, 'PX', lease + kept)
    end
  end
end
return answers
""")
"""KEYS: the counter of fences, and the keys. ARGV: owner, ms of the lease, ms for which a lapsed claim is kept.

Returns the fence before that of the first key, and of each key that is not ours now its place, and who has it, and
for how long; or its place alone: it is done.
"""

_OURS = """
local answers = {}
local function is_ours(i)
  local was = redis.call('GET', KEYS[i])
  local claim = ARGV[2] .. ' ' .. ARGV[i + 2] .. ' '
  if was and string.sub(was, 1, #claim) == claim then
    return claim
  end
  answers[#answers + 1] = i - 1
end
"""
"""ARGV: a number, the owner, and fences. The answers are the places of those that are not ours."""

_COMPLETE = Script(f"""{_OURS}
for i = 1, #KEYS do
  if is_ours(i) then
    redis.call('SET', KEYS[i], '{_DONE}', 'PX', ARGV[1])
  end
end
return answers
""")
"""ARGV[1]: ms for which it is remembered that they are done."""

_RELEASE = Script(f"""{_OURS}
for i = 1, #KEYS do
  if is_ours(i) then
    redis.call('DEL', KEYS[i])
  end
end
return answers
""")

_RENEW = Script(f"""{_NOW}{_OURS}
local ends = string.format('%.0f', now + ARGV[1])
for i = 1, #KEYS do
  local claim = is_ours(i)
  if claim then
    redis.call('SET', KEYS[i], claim .. ends, 'PX', ARGV[1] + {_FORGOTTEN_LATER * 1000})
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
        if not keys:
            return []
        names = [_FENCES, *[_KEY + key for key in keys]]
        before, *others = await self._run(_CLAIM, names, [owner, _milliseconds(lease), _FORGOTTEN_LATER * 1000])
        claims: list[Claim] = [New(before + number) for number in range(1, len(names))]
        for place, *holder in others:
            claims[place] = InProgress(holder[0].decode(), holder[1] / 1000) if holder else Done()
        return claims

    async def complete(self, items: Sequence[Held], ttl: float) -> Sequence[bool]:
        return await self._change(_COMPLETE, items, _milliseconds(ttl))

    async def release(self, items: Sequence[Held]) -> Sequence[bool]:
        return await self._change(_RELEASE, items, 0)

    async def renew(self, items: Sequence[Held], lease: float) -> Sequence[bool]:
        return await self._change(_RENEW, items, _milliseconds(lease))

    async def _change(self, script: Script, items: Sequence[Held], number: int) -> Sequence[bool]:
        """One call for each owner, who is always the same one where `Claims` calls."""
        answers = [True] * len(items)
        for owner in dict.fromkeys(item.owner for item in items):
            places = [place for place, item in enumerate(items) if item.owner == owner]
            names = [_KEY + items[place].key for place in places]
            for place in await self._run(script, names, [number, owner, *[items[place].fence for place in places]]):
                answers[places[place]] = False
        return answers

    async def _run(self, script: Script, names: Sequence[str], arguments: Sequence[Argument]) -> list[Any]:
        if self._calls is None:
            raise NotOpen("the idempotency store is not open; call open() first")
        answers: list[Any] = await self._calls.script(script, names, arguments)
        return answers


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
