"""What `kill -9` does to the process of a bus, without a process."""

from __future__ import annotations

from unibus.bus import Bus
from unibus.consumer import Consumer
from unibus.driver import Driver
from unibus.idempotency.claims import Claims


def kill(bus: Bus) -> Driver:
    """End all that an open bus does, at once: no settling, no release of claims, no note to anybody.

    Returns its driver, still open: cutting it off is the caller's. A handler of the bus may call
    this, and must then await its own end.
    """
    session = bus.session
    bus.forget_parent_process()  # no way leads to the session any more, so nothing drains it
    for claims in session._claims:
        _silence_claims(claims)
    for consumer in session.consumers:
        _silence_consumer(consumer)
    for sender in session._all_senders():
        sender.abort()
    return session.driver


def _silence_consumer(consumer: Consumer) -> None:
    consumer.stopping = True  # no lane is started again
    consumer.waiting.clear()
    consumer.buffer.items.clear()
    consumer.held.clear()
    if consumer._renewal is not None:
        consumer._renewal.stop()
    if consumer._overdue is not None:
        consumer._overdue.stop()
    if consumer._fetcher is not None:
        consumer._fetcher.cancel()
    for lane in consumer.lanes:
        lane.cancel("shutdown")  # a reason, so that the core does not take it for a failure
    consumer.settler.abort()


def _silence_claims(claims: Claims) -> None:
    claims._closed = True
    claims._local.clear()  # what it does not know of it neither completes, releases nor renews
    claims._completions.cut_off()
    if claims._timer is not None:
        claims._timer.cancel()
