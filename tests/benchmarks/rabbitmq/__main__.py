"""What unibus reaches on RabbitMQ, beside hand-written aio-pika and other frameworks in the same rounds.

    python -m tests.benchmarks.rabbitmq [URL] [--rounds 5] [--count 20000] [--queue-type quorum] [--only rabbit_publish]

Without a URL a broker is started. Never a test: the figures depend on the machine.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tests.benchmarks.contest import Contender
from tests.benchmarks.load import A_SECOND, BATCH, PREFETCH, TASKS
from tests.benchmarks.program import Scenario, arguments, hold_all
from tests.benchmarks.rabbitmq.scenarios import PACED, Scenarios

if TYPE_CHECKING:
    from tests.brokers import Broker

RAW = Contender("raw", "aio-pika", "tests.benchmarks.rabbitmq.raw")
FASTSTREAM = Contender("FastStream", "faststream", "tests.benchmarks.rabbitmq.faststream")
MQ_BRIDGE = Contender("mq-bridge", "mq-bridge", "tests.benchmarks.rabbitmq.mq_bridge")
EXPERT = Contender("expert", "aiormq", "tests.benchmarks.rabbitmq.expert")
UNIBUS = Contender("unibus", "unibus", "tests.benchmarks.rabbitmq.unibus")
IDEMPOTENT = Contender("unibus, idempotent", "unibus", "tests.benchmarks.rabbitmq.idempotent")
CONTENDERS = {each.name: each for each in (RAW, FASTSTREAM, MQ_BRIDGE, EXPERT, UNIBUS)}

ABOUT = {
    "rabbit_publish": f"{TASKS} tasks, each awaits its confirm; persistent (mq-bridge: batches of {BATCH})",
    "rabbit_consume": f"prefetch {PREFETCH}, validated by pydantic, acked after the handler",
    "rabbit_paced": f"one message at a time, {A_SECOND} a second, {PACED:,} at most; persistent, each confirmed",
    "rabbit_idempotent": "as rabbit_consume; with 64 lanes, each key is claimed and completed in a store on Redis",
}


def scenarios(turns: Scenarios, names: list[str]) -> Iterator[Scenario]:
    everybody = tuple(CONTENDERS.values())
    offered = {
        "rabbit_publish": (turns.publish, everybody),
        "rabbit_consume": (turns.consume, everybody),
        "rabbit_paced": (turns.paced, (RAW, EXPERT, UNIBUS)),
        "rabbit_idempotent": (turns.consume, (UNIBUS, IDEMPOTENT)),
    }
    for name in names:
        turn, contenders = offered[name]
        yield Scenario(f"{name}, {turns.queue_type} queue", ABOUT[name], contenders, turn)


def main() -> int:
    parser = arguments(
        "tests.benchmarks.rabbitmq", __doc__, "amqp://…; queues named bench-… are made there and deleted", ABOUT, 20_000
    )
    parser.add_argument("--queue-type", choices=["quorum", "classic"], help="without: one after the other")
    parser.add_argument(
        "--filled-by", choices=CONTENDERS, help="who wrote what is consumed; without: each contender its own"
    )
    parser.add_argument("--store", help="redis://… for rabbit_idempotent; without: one is started")
    given = parser.parse_args()
    names = [given.only] if given.only else list(ABOUT)
    broker = None if given.url else _started("rabbitmq")
    url = broker.url if broker else given.url
    store = given.store
    if store is None and "rabbit_idempotent" in names:
        store = _started("redis").url
    filler = CONTENDERS[given.filled_by] if given.filled_by else None
    for queue_type in [given.queue_type] if given.queue_type else ["quorum", "classic"]:
        if broker is not None and broker.ours:  # for a contender that cannot say which type it means
            broker.admin("rabbitmqctl", "update_vhost_metadata", "/", "--default-queue-type", queue_type)
        if code := hold_all(scenarios(Scenarios(url, queue_type, given.count, filler, store), names), given):
            return code
    return 0


def _started(name: str) -> Broker:
    from tests.brokers import broker  # needs a container engine's client

    return broker(name)


if __name__ == "__main__":
    sys.exit(main())
