"""The steps of a hop that are Redis's own: the one script that moves what is due."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.faults.dying import Dying
from unibus_redis import scripts
from unibus_redis.calls import Calls, Script

_NOTHING_MOVED = (0, -1)


def watch(dying: Dying) -> None:
    if dying.step not in ("before the move", "moved"):
        return
    make_call = Calls.script

    async def script(self: Calls, script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        if script is not scripts.MOVE:
            return await make_call(self, script, keys, arguments)
        if not dying.is_due():
            return _NOTHING_MOVED  # as if nobody had looked yet: the first look finds it due
        dying.reaches("before the move")
        answer = await make_call(self, script, keys, arguments)
        if answer[0]:
            dying.reaches("moved")
        return answer

    Calls.script = script  # type: ignore[method-assign]
