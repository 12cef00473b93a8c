"""Looks after a subscription: its topic, the way to the cluster, and a consumer that hangs."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from unibus.driver import Clock, Disconnected, Reconnected, Recreated
from unibus.errors import UnibusError
from unibus_kafka.cluster import Cluster
from unibus_kafka.failures import FOREIGN
from unibus_kafka.metadata import UNKNOWN
from unibus_kafka.subscription import KafkaSubscription

logger = logging.getLogger("unibus.kafka")


class Keeper:
    """In a task of its own. restore: make the topic anew, as it was declared. tend: called each time.

    The library's consumer hangs now and then: out of the group, or in it and silent. If there is something to read,
    the core wants it, and nothing comes for two sessions, another one takes its place.
    """

    def __init__(
        self, subscription: KafkaSubscription, cluster: Cluster, restore: Callable[[], Awaitable[None]],
        tend: Callable[[], Awaitable[None]], clock: Clock, *, every: float, session: float,
    ) -> None:  # fmt: skip
        self._subscription = subscription
        self._cluster = cluster
        self._restore = restore
        self._tend = tend
        self._clock = clock
        self._every = every
        self._patience = 2 * session
        self._away = False
        self._stuck_since: float | None = None
        self._identity: bytes | None = None
        self._outdated: set[str] = set()
        """What the consumer knows of these topics is of others, which were deleted."""

    async def run(self) -> None:
        while True:
            try:
                await self._look()
            except (*FOREIGN, UnibusError) as error:
                logger.debug("%s: cannot look after it: %r", self._subscription.source, error)
                self._lost(str(error))
            await self._clock.sleep(self._every)

    async def _look(self) -> None:
        subscription = self._subscription
        if subscription.grouped:
            await self._look_at_topics()
            await self._cluster.check_readable(subscription.own_topic)
        else:
            await self._cluster.topics([])
        await self._tend()
        if await self._hangs():
            self._lost("its consumer was silent")
            await subscription.rebuild()
            self._stuck_since = None
        self._back()

    async def _look_at_topics(self) -> None:
        """Its own may be gone. Any may be another one of the same name, if somebody else was first to make it anew."""
        subscription, own = self._subscription, self._subscription.own_topic
        names = {own} | {tp.topic for tp in subscription.partitions}
        found = await self._cluster.topics(names)
        missed = own not in found
        if missed:
            self._lost(f"{own!r} is gone")
            await self._restore()
            found = await self._cluster.topics(names)
            if own not in found:
                return  # not everywhere yet
        known, self._identity = self._identity, found[own].identity
        anew = {
            tp.topic
            for tp, one in subscription.partitions.items()
            if tp.topic in found and _differ(one.identity, found[tp.topic].identity)
        }
        if missed if known in (None, UNKNOWN) else known != self._identity:
            anew.add(own)
        if anew - self._outdated:
            self._outdated |= anew
            self._lost(f"{', '.join(sorted(anew))}: deleted, and made anew")
            subscription.notify(Recreated())
        if self._outdated:
            await subscription.rebuild()
            self._outdated.clear()

    async def _hangs(self) -> bool:
        """Whether it has been stuck for too long, and is still."""
        subscription, now = self._subscription, self._clock.monotonic()
        if subscription.inbox.wanted <= 0 or not await self._is_behind():
            self._stuck_since = None
            return False
        since = self._stuck_since
        if since is None or subscription.progress_at > since:
            self._stuck_since = now
            return False
        return now - since > self._patience

    async def _is_behind(self) -> bool:
        """Whether there is something to read in what is ours. Without any, whether the group knows us at all."""
        subscription = self._subscription
        readable = {tp: one for tp, one in subscription.partitions.items() if not one.revoked}
        if not readable:
            return subscription.grouped and subscription.member.generation < 0
        ends = await self._cluster.offsets(list(readable), "end")
        return any(ends[tp] > (one.mark.next or 0) for tp, one in readable.items())

    def _lost(self, reason: str) -> None:
        if not self._away:
            self._away = True
            self._subscription.notify(Disconnected(reason))

    def _back(self) -> None:
        if self._away:
            self._away = False
            self._subscription.notify(Reconnected())


def _differ(one: bytes, other: bytes) -> bool:
    return UNKNOWN not in (one, other) and one != other
