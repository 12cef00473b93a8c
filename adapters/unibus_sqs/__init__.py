"""Amazon SQS, and SNS for topics (`sqs://region`)."""

from __future__ import annotations

from unibus.driver import Clock, Driver, Url
from unibus_sqs.driver import SqsDriver


def connect(url: Url, clock: Clock) -> Driver:
    return SqsDriver(url, clock)
