"""What a server of some version can do, and the capabilities that follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from unibus.driver import Capabilities, Delay, Limits
from unibus.errors import ConfigurationError
from unibus_rabbitmq import ladder
from unibus_rabbitmq.options import Options

SERVER_TIMEOUT = 30 * 60.0
"""Seconds for which a delivery may stay unsettled, unless the server or the queue says otherwise."""

_LATE = (
    "a delayed message that is due while the server starts may come three minutes late: the server's setting "
    "dead_letter_worker_publisher_confirm_timeout",
)

SEND = Limits(messages=256, bytes=4 * 1024 * 1024, calls=4, min_messages=16)
RECEIVE = Limits(messages=1000)
SETTLE = Limits(messages=1000)


@dataclass(frozen=True, slots=True)
class Features:
    """What is different from version to version, and what the URL makes of it."""

    version: tuple[int, ...]
    queue_type: Literal["quorum", "classic"]
    queue_arguments: ladder.Arguments
    ordered_arguments: ladder.Arguments
    delays: bool
    max_body: int
    timeout: float

    @property
    def counts(self) -> bool:
        """Whether the broker counts deliveries.

        What it tells of an ordered queue says nothing: a crash counts for all that was pushed, and to be pushed
        one at a time would cost the order, see `RabbitSubscription.hold_at_most`.
        """
        return self.queue_type == "quorum"


def features(version: tuple[int, ...], options: Options) -> Features:
    """Raises ConfigurationError for an option that this server would ignore."""
    queue_type = options.queue_type
    if queue_type == "auto":
        queue_type = "quorum" if version >= (3, 13) else "classic"
    arguments: ladder.Arguments = {"x-queue-type": queue_type}
    if queue_type == "quorum" and version >= (4,):
        # The broker would drop a message after 20 deliveries. Before 4.0 there is no such limit, and the
        # argument would be taken for one of no deliveries.
        arguments["x-delivery-limit"] = -1
    if options.consumer_timeout is not None:
        if version < (3, 12):
            raise ConfigurationError(
                f"consumer_timeout={options.consumer_timeout:g}: RabbitMQ {_shown(version)} ignores it on a queue; "
                "set consumer_timeout in the server's configuration, or keep handlers below 10 minutes"
            )
        arguments["x-consumer-timeout"] = int(options.consumer_timeout * 1000)
    return Features(
        version=version,
        queue_type=queue_type,
        queue_arguments=arguments,
        ordered_arguments={**arguments, "x-single-active-consumer": True},
        delays=version >= (3, 10),
        max_body=options.max_body or (16 if version >= (4,) else 128) * 1024 * 1024,
        timeout=options.consumer_timeout or SERVER_TIMEOUT,
    )


def capabilities(known: Features) -> Capabilities:
    """Exactly what this server gives."""
    return Capabilities(
        queue_ordering="emulated",
        topic_ordering="emulated",
        groups="native",
        ephemeral="native",
        patterns="native",
        delay=Delay("emulated", ladder.LONGEST, ladder.PRECISION) if known.delays else Delay("none"),
        delivery_count="native" if known.counts else "none",
        # What is delivered may wait for a third of the time before it is begun, and be handled for another.
        hold=known.timeout / 3,
        max_body=known.max_body,
        send=SEND,
        receive=RECEIVE,
        settle=SETTLE,
        notes=_LATE if known.delays else (),
    )


def _shown(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
