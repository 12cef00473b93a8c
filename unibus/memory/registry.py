"""Brokers that drivers of one process share by name."""

from __future__ import annotations

import asyncio

from unibus.driver import Clock, SystemClock
from unibus.errors import ConfigurationError
from unibus.memory.broker import Broker
from unibus.memory.log_broker import LogBroker
from unibus.memory.options import Options
from unibus.memory.queue_broker import QueueBroker


class _Shared:
    """One named broker, and what all who join it must agree on."""

    def __init__(self, broker: Broker, options: Options, clock: Clock) -> None:
        self.broker = broker
        self.options = options
        self.clock = clock
        self.loop = asyncio.get_running_loop()
        self.users = 0


_shared: dict[str, _Shared] = {}


def join(name: str, options: Options, clock: Clock) -> Broker:
    """The broker of that name, made if nobody uses it; without a name, one for the caller alone."""
    if not name:
        return make(options, clock)
    shared = _shared.get(name)
    # A loop that was closed under its drivers can never close them: they are gone.
    if shared is None or shared.loop.is_closed():
        shared = _shared[name] = _Shared(make(options, clock), options, clock)
    _check_agreement(name, shared, options, clock)
    shared.users += 1
    return shared.broker


def leave(name: str, broker: Broker) -> None:
    """The last one who leaves drops the broker and all that is in it."""
    shared = _shared.get(name)
    if shared is not None and shared.broker is broker:
        shared.users -= 1
        if shared.users:
            return
        del _shared[name]
    broker.close()


def make(options: Options, clock: Clock) -> Broker:
    """A new broker of the chosen model."""
    return LogBroker(options, clock) if options.is_log else QueueBroker(options, clock)


def _check_agreement(name: str, shared: _Shared, options: Options, clock: Clock) -> None:
    if shared.options != options:
        mine, theirs = options.model_dump(), shared.options.model_dump()
        differences = [
            f"{option} is {theirs[option]} there and {mine[option]} here"
            for option in mine
            if mine[option] != theirs[option]
        ]
        raise ConfigurationError(
            f"memory://{name} is open with other options: {'; '.join(differences)}; use the same URL everywhere"
        )
    both_real = isinstance(clock, SystemClock) and isinstance(shared.clock, SystemClock)
    if shared.clock is not clock and not both_real:
        raise ConfigurationError(
            f"memory://{name} is open with another clock ({type(shared.clock).__name__}); "
            f"share that clock, or use another name"
        )
    if shared.loop is not asyncio.get_running_loop():
        raise ConfigurationError(
            f"memory://{name} belongs to another event loop; a memory broker is shared within one loop only"
        )
