"""Which brokers there are, and of which images: the one place that names them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

from tests.brokers import probes
from tests.brokers.probes import Probe


@dataclass(frozen=True)
class Place:
    """Where a container listens: `bind` is the address inside, `port` the first of its ports, inside and outside."""

    bind: str
    port: int


@dataclass(frozen=True)
class Local:
    """How the image is built where none can be pulled: a folder of `recipes`, on a release of Debian."""

    recipe: str
    debian: str
    arguments: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Spec:
    image: str
    local: Local
    url: str
    probe: Probe
    environment: Callable[[Place], dict[str, str]]
    command: Callable[[Place], list[str]]
    usual_port: int
    """Where a URL means without a port."""
    ports: int = 1
    """How many ports in a row are its own; the first is the one for clients."""
    version: str = ""
    """Of brokers that do not tell it."""
    program: Path | None = None
    """In Python, to be run instead of the image's own; it finds there what it imports."""


JVM: Final = "UNIBUS_TEST_JVM"
"""Options of Java for servers, beside the size of the heap. Those that live for minutes do better without its second
compiler, which takes a third of their time and pays later; benchmarks keep it."""
KAFKA: Final = "4.4.0"
KAFKA_NODES: Final = 3
MOTO: Final = "5.2.5"
ELASTICMQ: Final = "1.6.11"


def _rabbitmq(image: str, debian: str) -> Spec:
    return Spec(
        image=image,
        local=Local("rabbitmq", debian),
        url="amqp://guest:guest@127.0.0.1:{port}/",
        probe=probes.amqp,
        environment=_rabbitmq_environment,
        command=lambda place: ["rabbitmq-server"],
        usual_port=5672,
        ports=3,
    )


def _rabbitmq_environment(place: Place) -> dict[str, str]:
    # What Erlang's nodes listen on beside the broker is for rabbitmqctl alone: it stays on the loopback.
    return {
        "RABBITMQ_NODENAME": "rabbit@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": place.bind,
        "RABBITMQ_NODE_PORT": str(place.port),
        "RABBITMQ_DIST_PORT": str(place.port + 1),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        "ERL_EPMD_PORT": str(place.port + 2),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_ENABLED_PLUGINS": "",
        "RABBITMQ_LOGS": "-",
    }


def _redis(image: str, debian: str) -> Spec:
    return Spec(
        image=image,
        local=Local("redis", debian),
        url="redis://127.0.0.1:{port}/0",
        probe=probes.redis,
        environment=lambda place: {},
        command=_redis_command,
        usual_port=6379,
    )


def _redis_command(place: Place) -> list[str]:
    options = f"--bind {place.bind} --port {place.port} --protected-mode no --dir /data --save  --appendonly yes"
    return ["redis-server", *options.split(" ")]


def _postgresql_environment(place: Place) -> dict[str, str]:
    # Not where the official image declares a volume, which would outlive its container.
    return {"PGDATA": "/tmp/cluster", "POSTGRES_HOST_AUTH_METHOD": "trust"}


def _postgresql_command(place: Place) -> list[str]:
    # -F: no fsync. What it has written survives the death of its processes, which is all that tests do to it.
    options = f"-h {place.bind} -p {place.port} -c unix_socket_directories=/tmp -c max_connections=200 -F"
    return ["postgres", *options.split(" ")]


def _kafka_environment(place: Place) -> dict[str, str]:
    return _kafka_node(place, 1, {1: place.port}) | _KAFKA_ALONE


def _kafka_node(place: Place, number: int, ports: Mapping[int, int]) -> dict[str, str]:
    """One node of those with these first ports, by their numbers.

    Kafka tells its clients where to connect: those that came by port + 2 are told port + 3, a proxy's, and those
    that came by port + 4 are told port + 5.
    """
    listeners = {
        "PLAINTEXT": f"{place.bind}:{place.port}",
        "CONTROLLER": f"127.0.0.1:{place.port + 1}",
        "NEAR": f"{place.bind}:{place.port + 2}",
        "FAR": f"{place.bind}:{place.port + 4}",
    }
    advertised = {
        "PLAINTEXT": f"127.0.0.1:{place.port}",
        "NEAR": f"127.0.0.1:{place.port + 3}",
        "FAR": f"127.0.0.1:{place.port + 5}",
    }
    return {
        "KAFKA_NODE_ID": str(number),
        "KAFKA_PROCESS_ROLES": "broker,controller",
        "KAFKA_LISTENERS": ",".join(f"{name}://{address}" for name, address in listeners.items()),
        "KAFKA_ADVERTISED_LISTENERS": ",".join(f"{name}://{address}" for name, address in advertised.items()),
        "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": ",".join(f"{name}:PLAINTEXT" for name in listeners),
        "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
        "KAFKA_CONTROLLER_QUORUM_VOTERS": ",".join(f"{each}@127.0.0.1:{port + 1}" for each, port in ports.items()),
        # A killed broker may register again only when the session of its former life has ended.
        "KAFKA_BROKER_SESSION_TIMEOUT_MS": "4000",
        "KAFKA_BROKER_HEARTBEAT_INTERVAL_MS": "1000",
        # 50 by default, which are all made before the first group can be joined.
        "KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS": "5",
        "KAFKA_TRANSACTION_STATE_LOG_NUM_PARTITIONS": "5",
        "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
        # As it is by default: what asks for a topic by its name makes it, unless the client takes care.
        "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "true",
        # 6 s by default; a killed consumer is noticed no sooner.
        "KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS": "1000",
        "KAFKA_HEAP_OPTS": f"-Xms256m -Xmx768m {os.environ.get(JVM, '')}",
    }


_KAFKA_ALONE: Final = {
    "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
    "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
    "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
}
_KAFKA_TOGETHER: Final = {
    "KAFKA_DEFAULT_REPLICATION_FACTOR": "3",
    "KAFKA_MIN_INSYNC_REPLICAS": "2",
    "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "3",
    "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "3",
    "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "2",
    # 300 s by default: a node that comes back soon leads again what it has led before.
    "KAFKA_LEADER_IMBALANCE_CHECK_INTERVAL_SECONDS": "5",
}


def kafka_cluster(ports: Mapping[int, int]) -> Iterator[Spec]:
    """Nodes that know each other, one for each number and its first port."""
    for number in ports:
        yield replace(CATALOGUE["kafka"], environment=partial(_kafka_together, number, ports))


def _kafka_together(number: int, ports: Mapping[int, int], place: Place) -> dict[str, str]:
    return _kafka_node(place, number, ports) | _KAFKA_TOGETHER


def _elasticmq_environment(place: Place) -> dict[str, str]:
    options = {
        "node-address.host": "127.0.0.1",
        "node-address.port": place.port,
        "rest-sqs.bind-hostname": place.bind,
        "rest-sqs.bind-port": place.port,
        "rest-sqs.sqs-limits": "strict",
        "rest-stats.enabled": "false",
        "aws.region": "eu-west-1",
    }
    return {
        "JAVA_OPTS": " ".join(
            ["-Xmx256m", os.environ.get(JVM, ""), *(f"-D{name}={value}" for name, value in options.items())]
        )
    }


CATALOGUE: Final[Mapping[str, Spec]] = {
    "rabbitmq": _rabbitmq("rabbitmq:4", "trixie"),
    "rabbitmq-3": _rabbitmq("rabbitmq:3.10", "bookworm"),
    "redis": _redis("redis:8", "trixie"),
    "redis-7": _redis("redis:7.0", "bookworm"),
    "kafka": Spec(
        image=f"apache/kafka:{KAFKA}",
        local=Local("kafka", "trixie", {"KAFKA": KAFKA}),
        url="kafka://127.0.0.1:{port}",
        probe=probes.kafka,
        environment=_kafka_environment,
        command=lambda place: [],
        usual_port=9092,
        ports=6,
        version=KAFKA,
    ),
    "postgresql": Spec(
        image="postgres:17",
        local=Local("postgresql", "trixie"),
        url="postgresql+asyncpg://postgres@127.0.0.1:{port}/postgres",
        probe=probes.postgresql,
        environment=_postgresql_environment,
        command=_postgresql_command,
        usual_port=5432,
    ),
    "moto": Spec(
        image=f"motoserver/moto:{MOTO}",
        local=Local("moto", "trixie", {"MOTO": MOTO}),
        url="http://127.0.0.1:{port}",
        probe=probes.moto,
        environment=lambda place: {},
        command=lambda place: ["-H", place.bind, "-p", str(place.port)],
        usual_port=5000,
        version=MOTO,
        program=Path(__file__).with_name("moto_server.py"),
    ),
    "elasticmq": Spec(
        image=f"softwaremill/elasticmq:{ELASTICMQ}",
        local=Local("elasticmq", "trixie", {"ELASTICMQ": ELASTICMQ}),
        url="http://127.0.0.1:{port}",
        probe=probes.elasticmq,
        environment=_elasticmq_environment,
        command=lambda place: [],
        usual_port=9324,
        version=ELASTICMQ,
    ),
}

CLUSTERS: Final = {"kafka-cluster": "kafka"}
"""Brokers of several nodes, and what each node is."""
