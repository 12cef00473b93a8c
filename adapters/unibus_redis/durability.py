"""What a confirm of this server is worth."""

from __future__ import annotations

import logging

from redis import exceptions as foreign

from unibus.driver import Confirmed
from unibus.errors import ConfigurationError
from unibus_redis.calls import Calls
from unibus_redis.failures import FOREIGN, Unreached, translate
from unibus_redis.options import Endpoint

logger = logging.getLogger("unibus.redis")

_WAITAOF_SINCE = (7, 2)


async def confirmed(calls: Calls, endpoint: Endpoint) -> Confirmed:
    """Asked once, and warned of once. "disk" is what its append-only file makes of it, "memory" what cannot be known.

    Raises ConfigurationError where what the URL asks for cannot be had.
    """
    facts = await _facts(calls)
    options = endpoint.options
    appends = facts.get("aof_enabled") == "1"
    if options.fsync:
        version = tuple(int(word) for word in facts.get("redis_version", "0").split(".")[:2] if word.isdigit())
        if facts and version < _WAITAOF_SINCE:
            raise ConfigurationError(
                f"{endpoint.url}: fsync needs Redis 7.2, this is {facts['redis_version']}; "
                "leave it out, and set appendfsync always on the server"
            )
        if facts and not appends:
            raise ConfigurationError(
                f"{endpoint.url}: fsync needs an append-only file; set appendonly yes on the server"
            )
    if options.replicas:
        return "replicas"
    if options.fsync or appends:
        return "disk"
    why = "it keeps no append-only file" if facts else "it does not let us ask (INFO) whether it keeps a file"
    logger.warning(
        "%s: what this Redis confirms is lost when its process dies, since %s; set appendonly yes on the server",
        endpoint.url, why,
    )  # fmt: skip
    return "memory"


async def _facts(calls: Calls) -> dict[str, str]:
    """Lines of INFO; none where the user may not ask."""
    try:
        texts = await calls.request("", [("INFO", "server"), ("INFO", "persistence")])
    except foreign.ResponseError:
        return {}
    except (Unreached, *FOREIGN) as error:
        raise translate(error, f"asking {calls.where} what it is") from error
    lines = [line for text in texts if isinstance(text, bytes) for line in text.decode(errors="replace").splitlines()]
    return {name: value for name, found, value in (line.partition(":") for line in lines) if found}
