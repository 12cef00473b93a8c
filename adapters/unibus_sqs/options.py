"""What the URL may say (`sqs://eu-west-1?endpoint=…`), and what follows for the capabilities."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from unibus.driver import Capabilities, Delay, Limits

BATCH = 10
"""Messages in one call, of any kind."""
MAX_HOLD = 43_200.0
"""Seconds for which SQS lets a message be invisible in all."""
MAX_BYTES = 1_048_576
"""Bytes of one message, and of one batch, as they are sent."""


class Options(BaseModel):
    """The options of `sqs://`. Durations are whole seconds, as SQS counts them. Credentials come from
    the environment or the machine's role, never from the URL."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoint: str | None = Field(None, description="Another server than AWS, as http://127.0.0.1:5000.")
    lease: int = Field(30, ge=1, le=int(MAX_HOLD), description="How long a received message is ours unless renewed.")
    wait: int = Field(5, ge=0, le=20, description="How long one poll waits; closing waits for it.")
    timeout: float = Field(5.0, gt=0, description="How long an answer may take beyond that.")


def capabilities(options: Options) -> Capabilities:
    """A body of any bytes grows by a third in base64, so the limit is below that of SQS."""
    limits = Limits(messages=BATCH, calls=4)
    return Capabilities(
        queue_ordering="native",
        topic_ordering="native",
        groups="native",
        patterns="emulated",
        delay=Delay("native", 900.0, 1.5),
        nack_delay="native",
        delivery_count="native",
        ordered_delivery_count="native",
        lease=float(options.lease),
        hold=MAX_HOLD - 600,
        max_body=(MAX_BYTES - 65_536) * 3 // 4,
        body_limit_counts_metadata=True,
        send=Limits(messages=BATCH, bytes=MAX_BYTES // 2, calls=4, min_messages=BATCH),
        receive=limits,
        settle=limits,
    )
