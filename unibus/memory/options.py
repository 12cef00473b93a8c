"""What the URL of the memory broker may say, and the capabilities that follow from it.

The switches exist so that a program can be tested against a weaker broker than memory is by
itself: what is `off` is missing from the capabilities and refused if asked for anyway.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from unibus.driver import Capabilities, Delay, Guarantee, Limits, Support

Switch = Literal["on", "off"]

_QUEUE_ONLY = ("lease", "hold", "count")
_LOG_ONLY = ("partitions", "revoke_timeout", "retention", "start_earliest")


class Options(BaseModel):
    """The options of `memory://`. Durations are seconds, sizes bytes, switches `on` or `off`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Literal["queue", "log"] = Field(
        "queue",
        description="queue: each delivery is settled by itself. log: partitions, offsets, a low-water mark.",
    )
    guarantee: Guarantee = Field(
        "at_least_once",
        description="at_most_once: a delivery counts as settled once received; what is lost then is gone.",
    )
    groups: Switch = Field("on", description="Groups that share a subscription to topics.")
    ephemeral: Switch = Field("on", description="Subscriptions without a group.")
    patterns: Switch = Field("on", description="`*` and `#` in subscriptions.")
    ordering: Switch = Field("on", description='Order by key (`ordering="key"`).')
    delay: Switch = Field("on", description="Messages that become available later.")
    delay_max: float | None = Field(None, gt=0, description="The longest delay, seconds; unset: no limit.")
    nack_delay: Switch = Field("on", description="Deliveries that are given back for later.")
    max_body: int | None = Field(None, gt=0, description="The largest body, bytes; unset: no limit.")
    batch: int = Field(256, ge=1, description="Messages in one call of send, receive and settle.")
    lease: float = Field(
        30.0, ge=0, description="queue: seconds for which a delivery is held unless extended; 0: no leases."
    )
    hold: float | None = Field(
        None,
        gt=0,
        description="queue: the longest that a delivery stays unsettled at all, seconds; unset: no limit.",
    )
    count: Switch = Field("on", description="queue: the count of deliveries of a message.")
    partitions: int = Field(4, ge=1, description="log: partitions of an address that does not say its own number.")
    revoke_timeout: float = Field(
        10.0, ge=0, description="log: seconds between `Revoking` and `Lost` when a partition changes hands."
    )
    retention: int = Field(
        10_000,
        ge=0,
        description="log: messages kept per partition of a topic after every group has committed them.",
    )
    start_earliest: Switch = Field("on", description="log: groups that begin with what was published before.")

    @field_validator(*_QUEUE_ONLY, *_LOG_ONLY)
    @classmethod
    def _of_this_model(cls, value: object, info: ValidationInfo) -> object:
        # Called for what the URL says only, never for defaults: an option without effect is refused.
        chosen = info.data.get("model")
        wanted = "queue" if info.field_name in _QUEUE_ONLY else "log"
        if chosen is not None and chosen != wanted:
            raise ValueError(f"has no effect with model={chosen}; it needs model={wanted}")
        return value

    @property
    def is_log(self) -> bool:
        return self.model == "log"

    @property
    def at_most_once(self) -> bool:
        return self.guarantee == "at_most_once"


def capabilities(options: Options) -> Capabilities:
    """Exactly what a memory broker with these options does."""
    log = options.is_log
    limits = Limits(messages=options.batch)
    on_top: Support = "emulated" if log else "native"
    # A delivery that is settled on receipt is held by nobody: no lease to lose, nothing to give back.
    holds = not options.at_most_once
    return Capabilities(
        confirmed="memory",
        queue_guarantee=options.guarantee,
        topic_guarantee=options.guarantee,
        queue_ordering=_native(options.ordering),
        topic_ordering=_native(options.ordering),
        groups=_native(options.groups),
        ephemeral=_native(options.ephemeral),
        patterns=_native(options.patterns),
        start_earliest=_native(options.start_earliest) if log else "none",
        delay=Delay(on_top, options.delay_max, 0.0) if options.delay == "on" else Delay("none"),
        nack_delay=on_top if options.nack_delay == "on" and holds else "none",
        delivery_count="none" if log else _native(options.count),
        ordered_delivery_count="none" if log else _native(options.count),
        lease=options.lease if options.lease and holds and not log else None,
        hold=options.hold / 3 if options.hold and holds and not log else None,
        browse="native",
        positional=log,
        max_body=options.max_body,
        send=limits,
        receive=limits,
        settle=limits,
    )


def _native(switch: Switch) -> Support:
    return "native" if switch == "on" else "none"
