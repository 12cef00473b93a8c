"""Where dead letters lie, and whose they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from unibus.address import Queue, Source, TopicSubscription
from unibus.dead_letters.letter import GROUP, Letter
from unibus.driver import Driver
from unibus.errors import ConfigurationError, DestinationNotFound, TopologyMismatch
from unibus.names import DEAD_LETTER_SUFFIX
from unibus.plan import Plan
from unibus.planning import Addresses

ITSELF = "dlq:"
"""Before the name of a queue of dead letters that is called in a way of its own."""
_OF_GROUPS = "unibus.group."


@dataclass(frozen=True, slots=True)
class Place:
    """queue: where they lie. owner: whose they are, None if nobody knows. shared: all that lies there is meant,
    whoever's it is; else the owner's alone, and what has no record."""

    queue: Queue
    owner: Source | None
    shared: bool

    @property
    def owner_name(self) -> str:
        return "" if self.owner is None else name_of(self.owner)

    def has(self, letter: Letter) -> bool:
        """Whether it is meant. A record is what somebody wrote: it names no other consumer unless all are meant."""
        return self.shared or letter.source == self.owner_name


def name_of(source: Source) -> str:
    """As command lines spell it."""
    return GROUP + source.group if isinstance(source, TopicSubscription) and source.group else source.name


class Places:
    """Of one bus: its handlers and its configuration know more than a name."""

    def __init__(self, addresses: Addresses, plans: Sequence[Plan]) -> None:
        self._addresses = addresses
        self._plans = {plan.source.name: plan for plan in plans}

    def find(self, name: str) -> Place:
        """`orders` or `group:email` is whose they are, `orders.dlq` or `dlq:rejected` where they lie."""
        queue = name.removeprefix(ITSELF)
        if name.startswith(ITSELF) or name.endswith(DEAD_LETTER_SUFFIX):
            whose = queue.removesuffix(DEAD_LETTER_SUFFIX)
            return Place(self._addresses.queue(queue), None if whose == queue else self.consumer(whose), shared=True)
        owner = self.consumer(name)
        plan = self._plans.get(owner.name)
        said = plan.dead_letters if plan is not None else None
        return Place(said or self._addresses.queue(owner.dead_letters), owner, shared=False)

    def consumer(self, name: str) -> Source:
        """A queue, or a group by `group:email` or by the name of its own queue. Raises ConfigurationError."""
        if name.startswith((GROUP, _OF_GROUPS)):
            group = name.removeprefix(GROUP).removeprefix(_OF_GROUPS)
            source = TopicSubscription(("#",), group)  # what is sent to a group alone needs no patterns
            plan = self._plans.get(source.name)
            return source if plan is None else plan.source
        return self._addresses.queue(name)


class Staying(Exception):
    """Why a letter cannot be replayed."""


class Destinations:
    """Where letters go back to: to the consumer whose they were, as long as it is there."""

    def __init__(self, place: Place, places: Places, driver: Driver) -> None:
        self._place = place
        self._places = places
        self._driver = driver
        self._known: dict[str, Source | Staying] = {}

    async def of(self, letter: Letter) -> Source:
        """Raises Staying."""
        name = letter.source
        if name not in self._known:
            self._known[name] = await self._find(letter)
        found = self._known[name]
        if isinstance(found, Staying):
            raise found
        return found

    async def _find(self, letter: Letter) -> Source | Staying:
        name = letter.source
        if not name:
            return Staying(f"it has no record, and nobody is known to whom {self._place.queue} belongs")
        try:
            source = self._places.consumer(name)
            if source.name == self._place.queue.name:
                return Staying(f"it is of {name} itself")
            return await self._there(source)
        except (ConfigurationError, DestinationNotFound) as error:
            return Staying(str(error))

    async def _there(self, source: Source) -> Source:
        """As it is declared on the broker, for a queue that is known by its name alone."""
        if isinstance(source, TopicSubscription):
            return source
        try:
            await self._driver.depth(source)
        except TopologyMismatch:
            source = replace(source, ordering="none" if source.ordering == "key" else "key")
            await self._driver.depth(source)
        return source
