"""What unibus reaches on Redis, beside hand-written redis-py and other frameworks in the same rounds.

    python -m tests.benchmarks.redis [URL] [--rounds 5] [--count 50000] [--only redis_stream_publish]

Without a URL a server is started. Never a test: the figures depend on the machine.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Final

from tests.benchmarks.contest import Contender
from tests.benchmarks.load import BATCH, PREFETCH, TASKS
from tests.benchmarks.program import Scenario, arguments, hold_all
from tests.benchmarks.redis.scenarios import Scenarios

RAW = Contender("raw", "redis", "tests.benchmarks.redis.raw")
FASTSTREAM = Contender("FastStream", "faststream", "tests.benchmarks.redis.faststream")
MQ_BRIDGE = Contender("mq-bridge", "mq-bridge", "tests.benchmarks.redis.mq_bridge")
EXPERT = Contender("expert", "redis", "tests.benchmarks.redis.expert")
UNIBUS = Contender("unibus", "unibus", "tests.benchmarks.redis.unibus")

ABOUT: Final = {
    "redis_stream_publish": f"{TASKS} tasks, each awaits its answer (mq-bridge: batches of {BATCH})",
    "redis_send_many": f"one task, batches of {BATCH}",
    "redis_stream_consume": f"batches of {PREFETCH}, validated by pydantic, acked after the handler",
    "redis_pubsub": f"{TASKS} tasks publish, a subscriber in the same process validates",
}


def scenarios(turns: Scenarios, names: list[str]) -> Iterator[Scenario]:
    offered = {
        "redis_stream_publish": (turns.publish, (RAW, FASTSTREAM, MQ_BRIDGE, EXPERT, UNIBUS)),
        "redis_send_many": (turns.send_many, (MQ_BRIDGE, EXPERT, UNIBUS)),
        "redis_stream_consume": (turns.consume, (RAW, FASTSTREAM, MQ_BRIDGE, EXPERT, UNIBUS)),
        "redis_pubsub": (turns.pubsub, (RAW, FASTSTREAM, EXPERT, UNIBUS)),
    }
    for name in names:
        turn, contenders = offered[name]
        yield Scenario(name, ABOUT[name], contenders, turn)


def main() -> int:
    parser = arguments(
        "tests.benchmarks.redis", __doc__, "redis://…; keys named bench-… are made there and deleted", ABOUT, 50_000
    )
    given = parser.parse_args()
    url = given.url
    if url is None:
        from tests.brokers import broker  # needs a container engine's client

        url = broker("redis").url
    return hold_all(scenarios(Scenarios(url, given.count), [given.only] if given.only else list(ABOUT)), given)


if __name__ == "__main__":
    sys.exit(main())
