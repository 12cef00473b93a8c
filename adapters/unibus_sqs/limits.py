"""What AWS lets pass, as numbers and grammars. No stand-in enforces all of it, so the adapter does.

Sources: "Amazon SQS message quotas", "Amazon SQS queue quotas" and the reference of `SendMessage` and
`MessageAttributeValue`; "Amazon SNS endpoints and quotas" and the reference of `PublishBatch`.
"""

from __future__ import annotations

import re
from typing import Final

BATCH: Final = 10
"""Messages in one call, of any kind."""
MAX_BYTES: Final = 1_048_576
"""Bytes of one message that goes to a queue, and of one batch: body and attributes (names, types and values)."""
MAX_PUBLISHED_BYTES: Final = 262_144
"""The same for what goes through SNS."""
MAX_ATTRIBUTES: Final = 10
"""Of one message. With raw delivery SNS drops a message that has more."""
MAX_DELAY: Final = 900
"""Seconds for which SQS delays a message."""
MAX_HOLD: Final = 43_200
"""Seconds for which a message may be invisible after it was received, however often that is renewed."""
END_OF_HOLD: Final = MAX_HOLD - 600
"""Seconds after which we give up what we hold, before SQS does."""
RETENTION: Final = 1_209_600
"""Seconds for which a queue keeps messages at most; it is four days where nobody says so."""
MAX_WAIT: Final = 20
"""Seconds of one long poll."""
MAX_IN_FLIGHT: Final = 120_000
"""Messages of one queue that are received and not deleted; beyond it SQS says OverLimit."""
MAX_FILTER_VALUES: Final = 100
"""Values in one filter policy, beside one of ours; AWS counts combinations and allows 150."""
MAX_TAG: Final = 256
"""Characters in the value of a tag."""

QUEUE_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,80}|[A-Za-z0-9_-]{1,75}\.fifo")
_TEXT = re.compile("[\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]+")
_ATTRIBUTE_NAME = re.compile(r"(?!(?i:aws|amazon)\.)[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")


def travels_as_text(text: str) -> bool:
    """Whether SQS takes it as it is. It takes a carriage return too, which a client of the XML protocol reads as a
    line feed. Empty text is refused."""
    return _TEXT.fullmatch(text) is not None


def is_attribute_name(name: str) -> bool:
    return len(name) <= 256 and _ATTRIBUTE_NAME.fullmatch(name) is not None
