"""The Bus: what a program makes once, registers its handlers on, opens, and sends through."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, overload

from unibus import registry
from unibus.address import Queue, Topic, TopicSubscription
from unibus.blocking import BlockingBus
from unibus.driver import Clock, Connect, Depth, Driver, SystemClock, Url
from unibus.errors import ConfigurationError
from unibus.health import Health
from unibus.idempotency.store import IdempotencyStore
from unibus.lifespan import Lifespan
from unibus.names import check_name, check_user_name
from unibus.negotiation import Requirement
from unibus.options import BatchMiddleware, Middleware
from unibus.outcome import seconds
from unibus.producer import Producer, Publisher
from unibus.pull import Pull
from unibus.router import Router
from unibus.serving import run, serve
from unibus.session import Session, not_open
from unibus.stats import ConsumerStats

if TYPE_CHECKING:
    from unibus.dead_letters.box import DeadLetters

logger = logging.getLogger("unibus")

T = TypeVar("T")
Declare: TypeAlias = Literal["create", "verify", "none"]


class Bus(Router):
    """One broker, by its URL, and the handlers that consume from it.

    url: default from UNIBUS_URL, `unibus.toml` or `[tool.unibus]`, resolved when it opens. name:
    the `source` of what it sends. middleware: wraps every handler; batch_middleware: every batch
    handler. lifespan: an async generator function whose yield is injected into handlers by type,
    opened before the first delivery and closed after the last. declare: "create" makes what
    handlers need, "verify" insists that it exists, "none" asks nothing. durable: refuse a broker whose
    confirmed messages are gone with its process; also `durable = true` in the configuration. grace: seconds that
    handlers get to end when it stops. idempotency_store: for handlers whose `idempotent` names
    none. stall_after: seconds without progress, with messages in hand, after which it is not ready.
    connect: a driver's connect function, in place of the one that the URL's scheme names.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        name: str = "unibus",
        middleware: Sequence[Middleware] = (),
        batch_middleware: Sequence[BatchMiddleware] = (),
        lifespan: Lifespan | None = None,
        declare: Declare = "create",
        durable: bool = False,
        grace: float = 20.0,
        idempotency_store: str | IdempotencyStore | None = None,
        stall_after: float = 60.0,
        clock: Clock | None = None,
        connect: Connect | None = None,
    ) -> None:
        super().__init__()
        if not name:
            raise ConfigurationError("Bus(name=''): the source of a message cannot be empty; leave it out or name it")
        if declare not in ("create", "verify", "none"):
            raise ConfigurationError(f'Bus(declare={declare!r}): use "create", "verify" or "none"')
        self.name = name
        self.middleware = tuple(middleware)
        self.batch_middleware = tuple(batch_middleware)
        self.lifespan = lifespan
        self.grace = seconds(grace, "Bus(grace=…)")
        self._url = url
        self._declare = declare
        self._durable = durable
        self._idempotency_store = idempotency_store
        self._stall_after = stall_after
        self._clock = clock
        self._connect = connect
        self._session: Session | None = None
        self._was_open = self._closed = False
        self._opening = False
        self._grace_over: asyncio.Future[None] | None = None
        self._released = False
        self.drained_cleanly = True
        """Whether all handlers ended by themselves when it last stopped consuming."""
        self._stats: dict[str, ConsumerStats] = {}
        self._producers: dict[Any, Producer[Any]] = {}
        self._publishers: dict[Any, Publisher[Any]] = {}

    # --- opening ------------------------------------------------------------------------------------

    def configure(
        self, *, url: str | None = None, clock: Clock | None = None, connect: Connect | None = None
    ) -> tuple[str | None, Clock | None, Connect | None]:
        """Replace what was given to the constructor, before it is opened; returns what stood there.

        For command lines and test kits: the program itself stays as it is.
        """
        if self._session is not None:
            raise ConfigurationError("the bus is open; configure it before")
        before = (self._url, self._clock, self._connect)
        self._url = url if url is not None else self._url
        self._clock = clock if clock is not None else self._clock
        self._connect = connect if connect is not None else self._connect
        return before

    def restore(self, before: tuple[str | None, Clock | None, Connect | None]) -> None:
        """Undo `configure`."""
        self._url, self._clock, self._connect = before

    async def __aenter__(self) -> Bus:
        """Connect and declare: ready to send. It does not consume."""
        if self._session is not None or self._opening:
            raise ConfigurationError("the bus is open already")
        self._opening, self._released = True, False
        try:
            session = self._new_session()
            try:
                await session.open()
            except BaseException:
                await session.close(_done())
                raise
        finally:
            self._opening = False
        self._session = session
        self._was_open, self._closed = True, False
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            async with self.grace_period() as until:
                session, self._session = self._session, None
                await session.close(until)
            self._closed = True

    def _new_session(self) -> Session:
        from unibus import config  # its models take a while to build, and only a program that connects needs them

        settings = config.load()
        url = Url(self._url or settings.url or _no_url())
        clock = self._clock or SystemClock()
        return Session(
            name=self.name,
            driver=(self._connect or registry.connect)(url, clock),
            clock=clock,
            settings=settings,
            registrations=self.registrations,
            bus=self,
            declare=self._declare,
            durable=self._durable or settings.durable,
            default_store=self._idempotency_store or settings.idempotency_store,
        )

    @asynccontextmanager
    async def consuming(self) -> AsyncIterator[Bus]:
        """Consume while inside, as part of another program; opens the bus if it is not open yet.

        Leaving it stops fetching, lets handlers end within the grace period, and gives back the rest.
        """
        if self._session is None:
            async with self, self.consuming():
                yield self
            return
        session = self._session
        session.refuse_second_consuming()
        try:
            await session.start_consumers()
            yield self
        finally:
            self.stats()  # kept for those who look afterwards
            async with self.grace_period() as over:
                self.drained_cleanly = await session.stop_consumers(over)

    @asynccontextmanager
    async def grace_period(self) -> AsyncIterator[asyncio.Future[None]]:
        """A future that is done when the grace period is over, or at once by `release_now`."""
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        timer = self.session.clock.call_later(self.grace, lambda: None if over.done() else over.set_result(None))
        self._grace_over = over
        if self._released:
            over.set_result(None)
        try:
            yield over
        finally:
            timer.cancel()
            self._grace_over = None

    def release_now(self) -> None:
        """End the grace period: handlers are cancelled, their messages given back."""
        self._released = True
        if self._grace_over is not None and not self._grace_over.done():
            self._grace_over.set_result(None)

    def forget_parent_process(self) -> None:
        """After a fork: what the parent has open is not ours, and is not closed from here."""
        self._session = None

    async def serve(self, *, on_ready: Callable[[], None] | None = None) -> bool:
        """Open, consume and drain on SIGTERM or SIGINT; a second signal releases at once.

        Returns whether every handler ended by itself.
        """
        return await serve(self, on_ready)

    def run(self) -> None:
        """`serve` in a loop of its own: the last line of a program. Exit code 1 if it was forced."""
        run(self)

    # --- sending ------------------------------------------------------------------------------------

    @overload
    def producer(self, queue: str | Queue, type: type[T], *, delay: float = 0.0) -> Producer[T]: ...
    @overload
    def producer(self, queue: str | Queue, type: Any = None, *, delay: float = 0.0) -> Producer[Any]: ...
    def producer(self, queue: str | Queue, type: Any = None, *, delay: float = 0.0) -> Producer[Any]:  # noqa: A002
        """The producer of a queue; the same one for the same arguments.

        type: validates every payload before it leaves; without it anything goes that pydantic can
        write. delay: the longest that it will ask for, in seconds, so that it is checked at start.
        """
        longest = seconds(delay, "producer(delay=…)")
        made = (queue, type, longest)
        if made not in self._producers:
            if isinstance(queue, str):
                check_name(queue, "queue")
            self._producers[made] = Producer(self, queue, type, longest)
        return self._producers[made]

    @overload
    def publisher(self, topic: str | Topic, type: type[T]) -> Publisher[T]: ...
    @overload
    def publisher(self, topic: str | Topic, type: Any = None) -> Publisher[Any]: ...
    def publisher(self, topic: str | Topic, type: Any = None) -> Publisher[Any]:  # noqa: A002
        """The publisher of a topic; the same one for the same arguments. `type` as for `producer`."""
        made = (topic, type)
        if made not in self._publishers:
            # As an object: only then is it known that the name is a topic's.
            address = Topic(check_user_name(topic, "topic")) if isinstance(topic, str) else topic
            self._publishers[made] = Publisher(self, address, type, named=isinstance(topic, str))
        return self._publishers[made]

    # --- pulling ------------------------------------------------------------------------------------

    @overload
    def pull(
        self,
        *topics: str,
        type: type[T],
        queue: str | Queue | None = None,
        group: str | None = None,
        prefetch: int = 100,
    ) -> AbstractAsyncContextManager[Pull[T]]: ...
    @overload
    def pull(
        self,
        *topics: str,
        type: Any = Any,
        queue: str | Queue | None = None,
        group: str | None = None,
        prefetch: int = 100,
    ) -> AbstractAsyncContextManager[Pull[Any]]: ...
    def pull(
        self,
        *topics: str,
        queue: str | Queue | None = None,
        group: str | None = None,
        type: Any = Any,  # noqa: A002
        prefetch: int = 100,
    ) -> AbstractAsyncContextManager[Pull[Any]]:
        """Deliveries one by one, settled by hand; no middlewares. Give a queue, or topics and a group."""
        if (queue is None) == (not topics):
            raise ConfigurationError("pull takes either queue=… or topics (and a group), not both and not neither")
        return Pull.open(self, queue, topics, group, type, prefetch)

    # --- looking ------------------------------------------------------------------------------------

    @property
    def session(self) -> Session:
        """The open run. Raises NotOpen."""
        if self._session is None:
            raise not_open("closed" if self._was_open else "not open yet")
        return self._session

    @property
    def driver(self) -> Driver:
        """The broker's driver, for what unibus does not cover. Raises NotOpen."""
        return self.session.driver

    @property
    def producers(self) -> tuple[Producer[Any], ...]:
        return tuple(self._producers.values())

    @property
    def publishers(self) -> tuple[Publisher[Any], ...]:
        return tuple(self._publishers.values())

    async def depth(self, source: str | Queue | TopicSubscription) -> Depth:
        """How full a queue (by name or declaration) or a group is. Raises DestinationNotFound, NotOpen."""
        session = self.session
        return await session.driver.depth(
            source if isinstance(source, TopicSubscription) else session.addresses.queue(source)
        )

    def dead_letters(self, name: str) -> DeadLetters:
        """The dead letters of a queue (`"orders"`) or a group (`"group:email"`): to look at, replay or purge.

        `"orders.dlq"`, or `"dlq:rejected"` for a queue of another name, is all that lies there, whoever's it was.
        Raises NotOpen, ConfigurationError.
        """
        from unibus.dead_letters.box import DeadLetters  # only who looks after dead letters needs it

        return DeadLetters(self.session, name)

    def stats(self) -> dict[str, ConsumerStats]:
        """Counts by consumer (queue, group or patterns), live; after consuming, those of the latest run."""
        if self._session is not None and self._session.consumers:
            self._stats = {consumer.plan.name: consumer.stats for consumer in self._session.consumers}
        return self._stats

    def health(self) -> Health:
        """live is False only once it is closed; ready is False while something keeps it from its work."""
        if self._session is None:
            return Health(live=not self._closed, ready=False, reasons=("the bus is not open",))
        reasons = [
            complaint for consumer in self._session.consumers for complaint in consumer.complaints(self._stall_after)
        ]
        return Health(live=True, ready=not reasons, reasons=tuple(reasons))

    def requirements(self) -> list[Requirement]:
        """What handlers and producers ask of the broker. Opens nothing; raises ConfigurationError."""
        return (self._session or self._new_session()).requirements()

    def blocking(self) -> BlockingBus:
        """`with bus.blocking() as b:` for programs without a loop; see BlockingBus."""
        return BlockingBus(self)


def _no_url() -> str:
    raise ConfigurationError(
        "no broker is named: give Bus a URL, or set UNIBUS_URL, or `url` in unibus.toml or [tool.unibus]"
    )


def _done() -> asyncio.Future[None]:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.set_result(None)
    return future
