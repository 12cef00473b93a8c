"""What unibus reaches on Kafka, beside hand-written aiokafka and other frameworks in the same rounds.

    python -m tests.benchmarks.kafka [URL] [--rounds 5] [--count 50000] [--only kafka_publish]

Without a URL a server is started. Never a test: the figures depend on the machine.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Final

from tests.benchmarks.contest import Contender
from tests.benchmarks.kafka.scenarios import PARTITIONS, Scenarios
from tests.benchmarks.load import BATCH, PREFETCH, TASKS
from tests.benchmarks.program import Scenario, arguments, hold_all

RAW = Contender("raw", "aiokafka", "tests.benchmarks.kafka.raw")
FASTSTREAM = Contender("FastStream", "faststream", "tests.benchmarks.kafka.faststream")
MQ_BRIDGE = Contender("mq-bridge", "mq-bridge", "tests.benchmarks.kafka.mq_bridge")
EXPERT = Contender("expert", "aiokafka", "tests.benchmarks.kafka.expert")
UNIBUS = Contender("unibus", "unibus", "tests.benchmarks.kafka.unibus")

ABOUT: Final = {
    "kafka_publish": f"{TASKS} tasks, each awaits its confirm, acks=all (mq-bridge: batches of {BATCH})",
    "kafka_send_many": f"one task, acks=all (mq-bridge: batches of {BATCH})",
    "kafka_consume": f"up to {PREFETCH} at a time, validated by pydantic, committed after the handler",
}


def scenarios(turns: Scenarios, names: list[str]) -> Iterator[Scenario]:
    offered = {
        "kafka_publish": (turns.publish, (RAW, FASTSTREAM, MQ_BRIDGE, EXPERT, UNIBUS)),
        "kafka_send_many": (turns.send_many, (MQ_BRIDGE, EXPERT, UNIBUS)),
        "kafka_consume": (turns.consume, (RAW, FASTSTREAM, MQ_BRIDGE, UNIBUS)),
    }
    for name in names:
        turn, contenders = offered[name]
        yield Scenario(name, f"{PARTITIONS} partitions; {ABOUT[name]}", contenders, turn)


def main() -> int:
    parser = arguments(
        "tests.benchmarks.kafka", __doc__, "kafka://…; topics named bench-… are made there and deleted", ABOUT, 50_000
    )
    given = parser.parse_args()
    url = given.url
    if url is None:
        from tests.brokers import broker  # needs a container engine's client

        url = broker("kafka").url
    return hold_all(scenarios(Scenarios(url, given.count), [given.only] if given.only else list(ABOUT)), given)


if __name__ == "__main__":
    sys.exit(main())
