"""An open bus: the driver, the senders, the stores and the consumers of one run."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from unibus import lifespan, negotiation, planning, registry
from unibus.consumer import Consumer
from unibus.driver import (
    Address,
    Capabilities,
    Clock,
    Driver,
    Ordering,
    Outbound,
    Queue,
    Source,
    Topic,
    TopicSubscription,
    Topology,
    Url,
)
from unibus.envelope import Envelopes
from unibus.errors import ConfigurationError, NotOpen, UnibusError
from unibus.firstuse import FirstUse
from unibus.idempotency.claims import Claims
from unibus.idempotency.memory import MemoryStore
from unibus.idempotency.store import IdempotencyStore
from unibus.idempotency.transaction import TransactionalStore
from unibus.middleware.idempotent import IdempotentOption
from unibus.plan import Plan
from unibus.rates import MemoryRates, RateStore, require_library
from unibus.router import Registration
from unibus.sender import Sender

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    from unibus import config

logger = logging.getLogger("unibus")

MAX_CHUNK = 256
"""The most messages that `send_many` puts into one call: two such chunks are in memory."""


class Session:
    """Made by `Bus` when it opens. `declare` says who creates what (DECLARE of the bus)."""

    def __init__(
        self,
        *,
        name: str,
        driver: Driver,
        clock: Clock,
        settings: config.Settings,
        registrations: Sequence[Registration],
        bus: Any,
        declare: str,
        durable: bool,
        default_store: str | IdempotencyStore | None,
    ) -> None:
        self.driver = driver
        self.clock = clock
        self.name = name
        self.settings = settings
        self.addresses = planning.Addresses(settings)
        self.consumers: list[Consumer] = []
        self.consuming = False
        self._bus = bus
        self._declare = declare
        self._durable = durable
        self._default_store = default_store
        self.envelopes = Envelopes(name, clock)
        self._senders: dict[Address, Sender] = {}
        self._topic_senders: dict[tuple[Ordering, str | None], Sender] = {}
        self._known: set[Address] = set()
        self._uses = FirstUse(self._known)
        self._stores: dict[int, IdempotencyStore] = {}
        self._named_stores: dict[str, IdempotencyStore] = {}
        self._claims: list[Claims] = []
        self._rates: dict[str | None, RateStore] = {}
        self._rate_stores: dict[int, RateStore] = {}
        self._stack = AsyncExitStack()
        self._executor: ThreadPoolExecutor | None = None
        self.plans = self._plan(registrations)

    # --- open -------------------------------------------------------------------------------------

    def _plan(self, registrations: Sequence[Registration]) -> list[Plan]:
        for registration in registrations:
            if isinstance(registration.source, Queue) and not registration.named:
                self.addresses.declare(registration.source, registration.where)
        for writer in (*self._bus.producers, *self._bus.publishers):
            if writer.declared is not None:
                self.addresses.declare(writer.declared, f"a producer or publisher of {writer.declared.name!r}")
        resources = dict.fromkeys(lifespan.yielded_types(self._bus.lifespan), object())
        plans = []
        unknown = set(self.settings.consumers) - {registration.name for registration in registrations}
        if unknown:
            logger.warning("the configuration names consumers that this bus has not: %s", ", ".join(sorted(unknown)))
        for registration in registrations:
            planning.refuse_memory_store_among_workers(registration.function, self._default_store)
            planning.warn_of_limits_among_workers(registration)
            plans.append(
                planning.plan(registration, self.addresses, self.settings, type(self._bus), resources, self._provided)
            )
        return plans

    def requirements(self) -> list[negotiation.Requirement]:
        asked = [*negotiation.of_bus(self._durable)]
        asked += [requirement for plan in self.plans for requirement in negotiation.of_consumer(plan)]
        for producer in self._bus.producers:
            queue = self.addresses.queue(producer.queue)
            asked += negotiation.of_producer(queue.name, producer.delay, queue.ordering == "key")
        return asked

    async def open(self) -> None:
        """Connect, compare what is asked with what is there, then create or verify."""
        await self.driver.open()
        self.envelopes.limit(self.capabilities)
        verdicts = negotiation.judge(self.requirements(), self.capabilities)
        negotiation.refuse_unsupported(verdicts)
        for plan in self.plans:
            own = [v for v in verdicts if v.subject.startswith(f"{plan.name} (")]
            logger.info("%s: %s", plan.name, ", ".join(f"{verdict.asks}: {verdict.support}" for verdict in own))
        create: dict[Source | Topic, None] = {}
        for plan in self.plans:
            create[plan.source] = None
            if plan.dead_letters is not None:
                create[plan.dead_letters] = None
        verify = dict.fromkeys(self.addresses.queue(producer.queue) for producer in self._bus.producers)
        await self._declare_all(list(create), [queue for queue in verify if queue not in create])

    async def _declare_all(self, create: list[Source | Topic], verify: list[Queue]) -> None:
        if self._declare == "none":
            return
        # An ephemeral subscription exists while it is subscribed: there is nothing to declare.
        lasting = [
            address for address in create if not isinstance(address, TopicSubscription) or address.group is not None
        ]
        if self._declare == "create":
            await self.driver.declare(Topology(create=tuple(lasting), verify=tuple(verify)))
        else:
            await self.driver.declare(Topology(verify=(*lasting, *verify)))
        self._known.update(lasting, verify)

    async def declare_source(self, plan: Plan) -> None:
        """What a pull needs, unless it is known already."""
        verdicts = negotiation.judge(negotiation.of_consumer(plan), self.capabilities)
        negotiation.refuse_unsupported([verdict for verdict in verdicts if not verdict.asks.startswith("retries")])
        wanted = [plan.source] if plan.dead_letters is None else [plan.source, plan.dead_letters]
        await self._declare_all([address for address in wanted if address not in self._known], [])

    @property
    def capabilities(self) -> Capabilities:
        return self.driver.capabilities

    # --- sending ----------------------------------------------------------------------------------

    @property
    def chunk(self) -> int:
        """How many messages `send_many` puts into one call."""
        return min(self.capabilities.send.messages, MAX_CHUNK)

    async def sender_at_first_use(self, address: str | Queue | Topic) -> Sender:
        if isinstance(address, Topic):
            topic = self.addresses.topic(address)
            await self._first_use(topic, Topology(create=(topic,)))
            return self._topic_sender(topic)
        queue = self.addresses.queue(address)
        await self._first_use(queue, Topology(verify=(queue,)))
        return self.sender_for(queue)

    async def _first_use(self, address: Queue | Topic, topology: Topology) -> None:
        if address not in self._known and self._declare != "none":
            await self._uses.wait(address, lambda: self.driver.declare(topology))

    def sender_for(self, address: Source) -> Sender:
        """One sender for each queue, and for each group that is re-sent to."""
        sender = self._senders.get(address)
        if sender is None:
            ordered = address.ordering == "key"
            sender = self._senders[address] = Sender(address, self.capabilities.send, self.driver.send, ordered=ordered)
        return sender

    def _topic_sender(self, topic: Topic) -> Sender:
        """One for all topics that one call may mix.

        Keyed messages keep their order: a group may want it that we do not know of.
        """
        alike = topic.ordering, topic.physical
        sender = self._topic_senders.get(alike)
        if sender is None:
            sender = Sender(topic, self.capabilities.send, self._publish, ordered=True)
            self._topic_senders[alike] = sender
        return sender

    async def _publish(self, address: Address, messages: Sequence[Outbound]) -> None:
        await self.driver.send(self.addresses.topic(messages[0].topic or ""), messages)

    # --- consuming --------------------------------------------------------------------------------

    def refuse_second_consuming(self) -> None:
        if self.consuming:
            raise ConfigurationError("this bus is consuming already; one `consuming()` or `run()` at a time is enough")

    async def start_consumers(self) -> None:
        """Open the lifespan, fold the handlers, subscribe."""
        from concurrent.futures import ThreadPoolExecutor  # only a program that consumes needs it

        self.consuming = True
        self._executor = ThreadPoolExecutor(
            max_workers=max(1, sum(plan.concurrency for plan in self.plans if not plan.signature.asynchronous)),
            thread_name_prefix="unibus handler",
        )
        injected = await lifespan.enter(self._bus.lifespan, self._bus, self._stack)
        injected[type(self._bus)] = self._bus
        for plan in self.plans:
            folded = planning.fold(
                plan,
                self.settings,
                injected=injected,
                executor=self._executor,
                clock=self.clock,
                longest_wait=negotiation.longest_wait(plan, self.capabilities),
                open_claims=self._open_claims,
                open_store=self._open_store,
                open_rates=self._open_rates,
                middleware=self._bus.batch_middleware if plan.signature.batch else self._bus.middleware,
            )
            self.consumers.append(Consumer(plan, folded, self))
        for store in self._stores.values():
            await store.open()
        for rates in self._rate_stores.values():
            await rates.open()
        for consumer in self.consumers:
            await consumer.start()

    def _open_claims(self, store: str | IdempotencyStore | None, lease: float, ttl: float) -> Claims:
        """The claims of one handler on its store."""
        chosen = self._open_store(store)
        owner = f"{socket.gethostname()}:{os.getpid()}:{self.envelopes.stamps.next_id()}"
        claims = Claims(chosen, self.clock, owner, lease, ttl)
        self._claims.append(claims)
        return claims

    def _open_store(self, store: str | IdempotencyStore | None) -> IdempotencyStore:
        """Opened before the consumers start; handlers that name one store share it."""
        chosen = self._store(store)
        self._stores[id(chosen)] = chosen
        return chosen

    def _store(self, store: str | IdempotencyStore | None) -> IdempotencyStore:
        chosen = store if store is not None else self._default_store
        if chosen is None:
            raise ConfigurationError(
                '@idempotent has no store: give it one ("memory" for a single process, or a URL), or set it on the Bus'
            )
        if isinstance(chosen, str):
            if chosen not in self._named_stores:
                made = MemoryStore(self.clock) if chosen == "memory" else registry.store(Url(chosen), self.clock)
                self._named_stores[chosen] = made
            chosen = self._named_stores[chosen]
        return chosen

    def _provided(self, option: IdempotentOption) -> type | None:
        """What its store provides to handlers. Nothing is opened for that."""
        if option.store is None and self._default_store is None:
            return None  # said when it is to be opened
        store = self._store(option.store)
        return store.provides if isinstance(store, TransactionalStore) else None

    def _open_rates(self, store: str | RateStore | None) -> RateStore:
        """Handlers that name one store share it; without a name they share that of this process."""
        if store is None or isinstance(store, str):
            if store not in self._rates:
                require_library()
                self._rates[store] = (
                    MemoryRates(self.clock) if store is None else registry.rates(Url(store), self.clock)
                )
            store = self._rates[store]
        self._rate_stores[id(store)] = store
        return store

    async def stop_consumers(self, until: asyncio.Future[None]) -> bool:
        """Drain all at once; returns whether every handler ended by itself."""
        clean = True
        for ended in await asyncio.gather(
            *[consumer.stop(until) for consumer in self.consumers], return_exceptions=True
        ):
            if isinstance(ended, BaseException):
                logger.error("a consumer could not stop cleanly", exc_info=ended)
                clean = False
            else:
                clean = clean and ended
        for claims in self._claims:
            await claims.close()
        for store in self._stores.values():
            await store.close()
        for rates in self._rate_stores.values():
            await rates.close()
        await self._stack.aclose()
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
        self._claims.clear()
        self._stores.clear()
        self._rates.clear()
        self._rate_stores.clear()
        self.consumers = []
        self.consuming = False
        return clean

    # --- close ------------------------------------------------------------------------------------

    @property
    def unsent(self) -> int:
        """Messages that are being sent and are not confirmed yet."""
        return sum(sender.unsent for sender in self._all_senders())

    def _all_senders(self) -> list[Sender]:
        return [*self._senders.values(), *self._topic_senders.values()]

    async def close(self, until: asyncio.Future[None]) -> None:
        """Flush what is being sent, then disconnect. What is unconfirmed by then is reported."""
        senders = self._all_senders()
        if any(sender.unsent for sender in senders):
            flushing = asyncio.get_running_loop().create_task(_flush(senders))
            await asyncio.wait((flushing, until), return_when=asyncio.FIRST_COMPLETED)
            flushing.cancel()
        if self.unsent:
            logger.error("%d messages were not confirmed when the bus closed", self.unsent)
        for sender in senders:
            sender.abort()
        try:
            await self.driver.close()
        except UnibusError as error:
            logger.warning("the driver could not be closed cleanly: %s", error)


async def _flush(senders: Sequence[Sender]) -> None:
    await asyncio.gather(*[sender.flush() for sender in senders])


def not_open(state: str) -> NotOpen:
    return NotOpen(f"the bus is {state}; use it inside `async with bus:` (to send) or `async with bus.consuming():`")
