"""Every broker of the catalogue: it serves, on the loopback alone, and survives what tests do to it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.brokers import Broker, BrokerUnavailable, NotOurs, broker, ports
from tests.brokers.catalogue import CATALOGUE
from tests.brokers.container import Contained
from tests.brokers.places import ROOT
from tests.brokers.probes import amqp, elasticmq, kafka, moto, probe, redis
from tests.brokers.servers import SKIP, External, variable

VERSIONS = {
    "rabbitmq": "4.",
    "rabbitmq-3": "3.",
    "redis": "8.",
    "redis-7": "7.",
    "kafka": "4.",
    "postgresql": "17.",
    "moto": "5.",
    "elasticmq": "1.",
}
# As the kernel prints them: 127.0.0.1, the same in IPv6, and [::1].
LOOPBACKS = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


@pytest.fixture(params=list(CATALOGUE))
def each(request: pytest.FixtureRequest) -> Broker:
    return broker(request.param)


@pytest.fixture
def ours(each: Broker) -> Broker:
    if not each.ours:
        pytest.skip("a server of somebody else")
    return each


def test_serves(each: Broker) -> None:
    assert each.version.startswith(VERSIONS[each.name])
    assert str(each.port) in each.url
    assert broker(each.name) is each, "started once"


def test_stays_where_it_is(ours: Broker) -> None:
    url = ours.url
    ours.kill()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((ours.host, ours.port), timeout=5)
    ours.start()
    ours.restart()
    ours.pause()
    try:
        assert probe(url, CATALOGUE[ours.name].probe) is None, "a paused broker does not answer"
    finally:
        ours.unpause()
    ours.wait_ready()
    assert ours.url == url


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_listens_on_the_loopback_alone(ours: Contained) -> None:
    found = set(_listening(ours.processes()))
    if not found:
        pytest.skip("its processes are not visible here: it is in a network of its own")
    assert ours.port in {port for _, port in found}
    assert {address for address, _ in found} <= LOOPBACKS


def _listening(processes: list[int]) -> Iterator[tuple[str, int]]:
    """Address and port of all that these processes listen on."""
    sockets = set()
    for process in processes:
        with suppress(OSError):
            sockets |= {os.readlink(link) for link in Path(f"/proc/{process}/fd").iterdir()}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                address, port = fields[1].split(":")
                yield address, int(port, 16)


def test_an_end_while_waiting() -> None:
    server = broker("redis")
    if not server.ours:
        pytest.skip("a server of somebody else")
    server.kill()
    try:
        with pytest.raises(BrokerUnavailable, match=r"redis has ended \(exit code 137\)"):
            server.wait_ready()
        with pytest.raises(BrokerUnavailable, match="redis has ended"):
            broker("redis")
    finally:
        server.start()


@pytest.mark.parametrize("name", ["rabbitmq", "rabbitmq-3"])
def test_what_rabbitmq_has_stored_survives_a_kill(name: str) -> None:
    server = broker(name)
    if not server.ours:
        pytest.skip("a server of somebody else")
    server.admin("rabbitmqctl", "add_vhost", "kept")
    server.kill()
    server.start()
    assert "kept" in server.admin("rabbitmqctl", "list_vhosts")
    server.admin("rabbitmqctl", "delete_vhost", "kept")


def test_a_command_that_fails(ours: Broker) -> None:
    with pytest.raises(RuntimeError, match="exit code"):
        ours.admin("cat", "/there/is/no/such/file")


def test_a_server_of_somebody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is used, and nothing is done to it."""
    running = broker("redis")
    named = External("redis", running.url, CATALOGUE["redis"])
    named.wait_ready()
    assert (named.url, named.port, named.version) == (running.url, running.port, running.version)
    for method in (named.kill, named.start, named.restart, named.pause, named.unpause, named.admin, named.logs):
        with pytest.raises(NotOurs, match="UNIBUS_TEST_REDIS_URL"):
            method()


def test_a_wrong_server_is_not_taken_for_a_broker() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"amqp://127.0.0.1:{silent.getsockname()[1]}"
        named = External("rabbitmq-3", url, CATALOGUE["rabbitmq-3"])
        with pytest.raises(BrokerUnavailable, match="UNIBUS_TEST_RABBITMQ_3_URL"):
            named.wait_ready(timeout=0)
    assert [probe(broker("redis").url, ask) for ask in (amqp, moto)] == [None, None]
    assert [probe(broker("moto").url, ask) for ask in (amqp, kafka, redis, elasticmq)] == [None] * 4


def test_variables() -> None:
    assert [variable(name) for name in ("kafka", "redis-7")] == ["UNIBUS_TEST_KAFKA_URL", "UNIBUS_TEST_REDIS_7_URL"]


def test_skipping_is_not_for_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SKIP, "1")
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception):
        broker("redis")
    monkeypatch.setenv("CI", "true")
    assert broker("redis").name == "redis"


def test_ports_are_of_one_process_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "FIRSTS", (first := ports.reserve(6),))
    asked = "from tests.brokers import ports; ports.FIRSTS = ({},); ports.reserve(6)"
    with pytest.raises(BrokerUnavailable, match="no 6 ports"):
        ports.reserve(6)
    command = [sys.executable, "-c", asked.format(first)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "BrokerUnavailable: no 6 ports" in done.stderr
