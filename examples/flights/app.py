"""The program: a queue, a topic per carrier, and two groups that listen to all of them."""

from __future__ import annotations

import zlib

from examples.flights.ledger import Ledger
from examples.flights.messages import Departure, FlightDeparted
from unibus import (
    Bus,
    Message,
    NotSent,
    OutcomeUnknown,
    Queue,
    TopicSubscription,
    constant,
    dead_letter,
    idempotent,
    retry,
)
from unibus.driver import Guarantee

FLIGHTS = Queue("flights")
DELAYS = TopicSubscription(("flight.departed.*",), group="delays")
COUNT = TopicSubscription(("flight.#",), group="count")

RETRY_AFTER = 1.5
"""Seconds. Over one second, so that the broker keeps the message meanwhile and not this process."""


def make_bus(
    url: str, ledger: Ledger, *, seed: int = 1, concurrency: int = 50, guarantee: Guarantee = "at_least_once"
) -> Bus:
    """The bus and its handlers, which note in the ledger what they did."""
    # One process handles everything, so its memory will do. Several would share a store.
    bus = Bus(url, name="flights", idempotency_store="memory")

    @bus.consumer(FLIGHTS, concurrency=concurrency, guarantee=guarantee)
    @dead_letter()  # to flights.dlq: a cancelled flight does not validate as a Departure
    @idempotent(key=lambda message: message.data.flight_id)
    @retry(on=(ConnectionError, OutcomeUnknown, NotSent), backoff=constant(RETRY_AFTER))
    async def depart(departure: Departure, bus: Bus) -> None:
        flight = departure.flight_id
        if unlucky(flight, seed) and ledger.first_failure(flight):
            raise ConnectionError("the air traffic control does not answer")
        # The id is the flight's own. Whatever happens between this publish and the acknowledgement,
        # a second one for the same flight is recognised by every group that is idempotent.
        publisher = bus.publisher(f"flight.departed.{departure.carrier}", type=FlightDeparted)
        departed = FlightDeparted(flight_id=flight, carrier=departure.carrier, delay=departure.dep_delay)
        await publisher.publish(departed, id=flight)
        ledger.handled[flight] += 1

    @bus.subscriber(*DELAYS.patterns, group=DELAYS.group, concurrency=concurrency, guarantee=guarantee)
    @idempotent()  # by the message's id
    async def mean_delay(departed: FlightDeparted) -> None:
        ledger.delays[departed.carrier].add(departed.delay)

    @bus.subscriber(*COUNT.patterns, group=COUNT.group, concurrency=concurrency, guarantee=guarantee)
    @idempotent()
    async def count(message: Message[FlightDeparted]) -> None:
        ledger.counted += 1

    return bus


def unlucky(flight: str, seed: int) -> bool:
    """One flight in a hundred, the same ones at every run with this seed."""
    return zlib.crc32(f"{seed}:{flight}".encode()) % 100 == 0
