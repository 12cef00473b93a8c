"""What the URL may say (`sqs://eu-west-1?endpoint=…`), and what follows for the capabilities."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from unibus.driver import Capabilities, Delay, Limits, Support, Url
from unibus.errors import ConfigurationError
from unibus_sqs.limits import BATCH, END_OF_HOLD, MAX_BYTES, MAX_HOLD, MAX_WAIT

_REGION = re.compile(r"[a-z]{2,}(?:-[a-z]+)+-\d{1,2}")
_ENDPOINT = re.compile(r"https?://[^/@\s]+/?")
_KEYS = ("access", "secret", "session_token", "profile_key", "credential")


_TOPICS = (
    "what is published without order to a topic that an ordered group wants is refused",
    "AWS takes up to a minute to let SNS write to a new group's queue, and up to 15 to apply its filter: what is "
    "published before may not reach the group",
)


class Options(BaseModel):
    """The options of `sqs://`. Durations are seconds, whole ones where SQS counts so. Credentials come from the
    default chain (environment, profile, container or machine role), never from the URL."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoint: str | None = Field(None, description="Another server than AWS, as http://127.0.0.1:5000.")
    lease: int = Field(30, ge=1, le=MAX_HOLD // 12, description="How long a received message is ours until renewed.")
    wait: int = Field(MAX_WAIT, ge=0, le=MAX_WAIT, description="How long one poll waits; closing waits for it, too.")
    polls: int = Field(3, ge=1, le=32, description="Polls in flight at most for one consumer; an idle one has one.")
    topics: bool = Field(True, description="Whether there are topics, which needs SNS; a server may have queues alone.")
    topic_check: int = Field(60, ge=1, description="How soon a group notices that its subscription was deleted.")
    max_body: int = Field(MAX_BYTES, ge=1024, le=MAX_BYTES, description="Bytes of a message: a queue may allow less.")
    timeout: float = Field(5.0, gt=0, le=300, description="How long an answer may take, beyond that of a poll.")


@dataclass(frozen=True, slots=True)
class Place:
    """Where the driver connects to."""

    region: str
    options: Options


def place(url: Url) -> Place:
    """Raises ConfigurationError, which never shows a secret."""
    if url.username or url.password or any(word in name.lower() for name in url.options for word in _KEYS):
        raise ConfigurationError(
            f"{url} carries credentials; leave them out of the URL and give them to AWS's default chain: the variables "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or the machine's role"
        )
    if not url.host:
        raise ConfigurationError(f"{url} names no region; write it as the host, as in sqs://eu-west-1")
    if url.port or url.path.strip("/") or len(url.hosts) > 1 or not _REGION.fullmatch(url.host):
        raise ConfigurationError(
            f"{url}: {url.host!r} is not a region; the URL names a region and nothing else, as in sqs://eu-west-1, "
            "and another server by its option, as in sqs://eu-west-1?endpoint=http://127.0.0.1:5000"
        )
    options = url.parse_options(Options)
    if options.endpoint is not None and not _ENDPOINT.fullmatch(options.endpoint):
        raise ConfigurationError("option endpoint of sqs:// is no server; write http://host:port, without a user")
    return Place(url.host, options)


def capabilities(options: Options) -> Capabilities:
    """The limits of a message are those of a text; bytes that are no text grow by a third, and `send` refuses what
    is over the limit then."""
    of_topics: Support = "native" if options.topics else "none"
    return Capabilities(
        confirmed="replicas",
        queue_ordering="native",
        topic_ordering=of_topics,
        groups=of_topics,
        patterns="emulated" if options.topics else "none",
        delay=Delay("native", None, 1.5),
        nack_delay="native",
        delivery_count="native",
        ordered_delivery_count="native",
        lease=float(options.lease),
        hold=END_OF_HOLD / 3,
        max_body=options.max_body,
        body_limit_counts_metadata=True,
        send=Limits(messages=BATCH, bytes=options.max_body, calls=8, min_messages=BATCH),
        receive=Limits(messages=BATCH * options.polls, calls=options.polls),
        settle=Limits(messages=BATCH, calls=8, min_messages=BATCH),
        notes=_TOPICS if options.topics else (),
    )
