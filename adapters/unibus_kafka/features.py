"""The capabilities of a cluster."""

from __future__ import annotations

from unibus.driver import Capabilities, Confirmed, Delay, Limits
from unibus_kafka import delays

MESSAGES = 500
"""In one call: what is confirmed, or lost sight of, together."""
CALLS = 4
MAX_BODY = 1_000_000
"""Bytes. The servers' own default for a batch (`max.message.bytes`) is 1,048,588, with keys, headers and overhead."""


def capabilities(confirmed: Confirmed) -> Capabilities:
    """Kafka counts no deliveries, and holds none back: the driver hands out again what is given back, and notes in
    the group's own offsets what a process had in hand when it died (`lives`)."""
    return Capabilities(
        confirmed=confirmed,
        queue_ordering="native",
        topic_ordering="native",
        groups="native",
        ephemeral="native",
        patterns="native",
        start_earliest="native",
        delay=Delay("emulated", delays.LONGEST, delays.PRECISION),
        delivery_count="emulated",
        ordered_delivery_count="emulated",
        browse="native",
        positional=True,
        max_body=MAX_BODY,
        body_limit_counts_metadata=True,
        send=Limits(messages=MESSAGES, calls=CALLS),
        receive=Limits(messages=MESSAGES),
        settle=Limits(messages=5000),
    )
