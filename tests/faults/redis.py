"""Redis, as the scenarios have to know it."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis

from tests.faults.server import Bounds, Server

LEASE = 3.0

_DELETE = """
local length = redis.call('XLEN', KEYS[1])
local pending = 0
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  for at = 1, #group, 2 do
    if group[at] == 'pending' then pending = pending + group[at + 1] end
  end
end
redis.call('DEL', KEYS[1])
return length - pending
"""


class RedisTools:
    async def delete(self, url: str, queue: str) -> int:
        client: Any = Redis.from_url(url.partition("?")[0])
        try:
            return int(await client.eval(_DELETE, 1, queue))
        finally:
            await client.aclose()


# What a dead consumer held is claimed when its lease has run out, by consumers that look every two seconds.
# A send may wait for a connection as long as for its answer.
BOUNDS = Bounds(publish=15.0, redelivery=5 * LEASE, silence=LEASE)
OPTIONS = f"?lease={LEASE:g}"

REDIS_8 = Server("redis", RedisTools(), BOUNDS, options=OPTIONS)
REDIS_7 = Server("redis-7", RedisTools(), BOUNDS, options=OPTIONS)
