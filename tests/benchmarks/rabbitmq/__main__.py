"""What unibus reaches on RabbitMQ, beside hand-written aio-pika and other frameworks in the same rounds.

    python -m tests.benchmarks.rabbitmq [URL] [--rounds 5] [--count 20000] [--queue-type quorum] [--only rabbit_publish]

Without a URL a broker is started. Never a test: the figures depend on the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import TYPE_CHECKING

from tests.benchmarks import table
from tests.benchmarks.contest import Contender, Results, TurnFailed, hold
from tests.benchmarks.load import A_SECOND, BATCH, PREFETCH, TASKS
from tests.benchmarks.rabbitmq.scenarios import Scenarios

if TYPE_CHECKING:
    from tests.brokers import Broker

RAW = Contender("raw", "aio-pika", "tests.benchmarks.rabbitmq.raw")
FASTSTREAM = Contender("FastStream", "faststream", "tests.benchmarks.rabbitmq.faststream")
MQ_BRIDGE = Contender("mq-bridge", "mq-bridge", "tests.benchmarks.rabbitmq.mq_bridge")
EXPERT = Contender("expert", "aiormq", "tests.benchmarks.rabbitmq.expert")
UNIBUS = Contender("unibus", "unibus", "tests.benchmarks.rabbitmq.unibus")
CONTENDERS = {each.name: each for each in (RAW, FASTSTREAM, MQ_BRIDGE, EXPERT, UNIBUS)}

ABOUT = {
    "rabbit_publish": f"{TASKS} tasks, each awaits its confirm; persistent (mq-bridge: batches of {BATCH})",
    "rabbit_consume": f"prefetch {PREFETCH}, validated by pydantic, acked after the handler",
    "rabbit_paced": f"one message at a time, {A_SECOND} a second; persistent, each confirmed",
}


async def contest(scenarios: Scenarios, name: str, rounds: int) -> Results:
    turn, count, contenders = {
        "rabbit_publish": (scenarios.publish, scenarios.count, tuple(CONTENDERS.values())),
        "rabbit_consume": (scenarios.consume, scenarios.count, tuple(CONTENDERS.values())),
        "rabbit_paced": (scenarios.paced, scenarios.paced_count, (RAW, EXPERT, UNIBUS)),
    }[name]
    about = f"{ABOUT[name]}; {count:,} messages, median of {rounds}"
    return await hold(Results(f"{name}, {scenarios.queue_type} queue", about), contenders, rounds, turn)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.rabbitmq",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("url", nargs="?", help="amqp://…; queues named bench-… are made there and deleted")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=20_000, help="messages a turn")
    parser.add_argument("--queue-type", choices=["quorum", "classic"], help="without: one after the other")
    parser.add_argument("--only", choices=ABOUT, help="without: all scenarios")
    parser.add_argument("--markdown", action="store_true", help="print tables for a document")
    parser.add_argument(
        "--filled-by", choices=CONTENDERS, help="who wrote what is consumed; without: each contender its own"
    )
    given = parser.parse_args()
    broker = None if given.url else _started()
    url = broker.url if broker else given.url
    show = table.markdown if given.markdown else table.terminal
    filler = CONTENDERS[given.filled_by] if given.filled_by else None
    try:
        for queue_type in [given.queue_type] if given.queue_type else ["quorum", "classic"]:
            if broker is not None and broker.ours:  # for a contender that cannot say which type it means
                broker.admin("rabbitmqctl", "update_vhost_metadata", "/", "--default-queue-type", queue_type)
            scenarios = Scenarios(url, queue_type, given.count, filler)
            for name in [given.only] if given.only else ABOUT:
                print(show(asyncio.run(contest(scenarios, name, given.rounds))), flush=True)
    except TurnFailed as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _started() -> Broker:
    from tests.brokers import broker  # needs a container engine's client

    return broker("rabbitmq")


if __name__ == "__main__":
    sys.exit(main())
