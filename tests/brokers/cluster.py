"""Three nodes of Kafka, each in a container, that know each other: what is lost with one of them is not lost."""

from __future__ import annotations

from itertools import cycle

from tests.brokers.catalogue import CATALOGUE, KAFKA_NODES, kafka_cluster
from tests.brokers.container import Contained, shares_network
from tests.brokers.errors import BrokerUnavailable
from tests.brokers.lease import lease
from tests.brokers.ports import reserve


class Cluster:
    """See `Broker`. What happens to it happens to one node, and to another the next time."""

    ours = True
    host = "127.0.0.1"

    def __init__(self, name: str, nodes: list[Contained]) -> None:
        self.name = name
        self.nodes = nodes
        self.port = nodes[0].port
        scheme = nodes[0].url.partition("://")[0]
        self.url = f"{scheme}://{','.join(f'{node.host}:{node.port}' for node in nodes)}"
        self._turns = cycle(nodes)
        self._down: list[Contained] = []

    @classmethod
    def run(cls, name: str) -> Cluster:
        if not shares_network(lease()):
            raise BrokerUnavailable(
                f"{name}: its nodes reach each other only where containers share this machine's network"
            )
        first = reserve(KAFKA_NODES * CATALOGUE["kafka"].ports)
        ports = {number: first + (number - 1) * CATALOGUE["kafka"].ports for number in range(1, KAFKA_NODES + 1)}
        specs = kafka_cluster(ports)
        return cls(name, [Contained.run(name, spec, ports[number]) for number, spec in enumerate(specs, 1)])

    @property
    def version(self) -> str:
        return self.nodes[0].version

    def node(self, number: int) -> Contained:
        """By the number that it has in the cluster."""
        return self.nodes[number - 1]

    def admin(self, *command: str) -> str:
        return self.nodes[0].admin(*command)

    def logs(self) -> str:
        return "\n".join(node.logs() for node in self.nodes)

    def kill(self, number: int | None = None) -> None:
        """number: of the node; one after the other by default."""
        node = next(self._turns) if number is None else self.node(number)
        node.kill()
        self._down.append(node)

    def start(self) -> None:
        while self._down:
            self._down.pop().start()

    def restart(self) -> None:
        next(self._turns).restart()

    def pause(self) -> None:
        for node in self.nodes:
            node.pause()

    def unpause(self) -> None:
        for node in self.nodes:
            node.unpause()

    def wait_ready(self, timeout: float = 90) -> None:
        for node in self.nodes:
            node.wait_ready(timeout)

    def look(self) -> None:
        for node in self.nodes:
            node.look()
