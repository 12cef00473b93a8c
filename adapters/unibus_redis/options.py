"""What the URL may say, and what follows for the capabilities."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from unibus.driver import Capabilities, Limits


class Options(BaseModel):
    """The options of `redis://` and `redis+pubsub://`. Durations are seconds, sizes bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    lease: float = Field(30.0, ge=1, description="How long a message stays with a consumer that has fallen silent.")
    timeout: float = Field(5.0, gt=0, description="How long an answer of the server may take.")
    max_body: int = Field(8 * 1024 * 1024, gt=0, description="The largest body.")


BATCH = Limits(messages=256, calls=4)


def capabilities(options: Options) -> Capabilities:
    """Streams: a queue, and each group, is a stream with one consumer group."""
    return Capabilities(
        queue_ordering="emulated",
        topic_ordering="emulated",
        groups="emulated",
        ephemeral="emulated",
        patterns="emulated",
        delivery_count="native",
        ordered_delivery_count="native",
        lease=options.lease,
        max_body=options.max_body,
        send=BATCH,
        receive=BATCH,
        settle=BATCH,
    )
