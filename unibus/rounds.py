"""Whether the event loop has been round: what was ready has run, and the broker's sockets were looked at."""

from __future__ import annotations

import asyncio


class Rounds:
    """`number` rises with each round that somebody `watch`es the end of. One call of the loop a round, for all."""

    __slots__ = ("_watched", "number")

    def __init__(self) -> None:
        self.number = 0
        self._watched = False

    def watch(self) -> int:
        """The number of this round; it will have risen in the next."""
        if not self._watched:
            self._watched = True
            asyncio.get_running_loop().call_soon(self._over)
        return self.number

    def _over(self) -> None:
        self._watched = False
        self.number += 1
