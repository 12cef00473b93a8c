"""The brokers of this test run: each is started when it is first asked for, and kept until the run ends."""

from __future__ import annotations

import os
import threading
import time
from functools import cache
from typing import Protocol
from urllib.parse import urlsplit

import pytest

from tests.brokers.catalogue import CATALOGUE, CLUSTERS, Spec
from tests.brokers.errors import BrokerUnavailable, NotOurs
from tests.brokers.probes import probe

SKIP = "UNIBUS_TEST_SKIP_BROKERS"
_starting = threading.Lock()


class Broker(Protocol):
    """A running server. Its methods block: in a test on an event loop, `await asyncio.to_thread(broker.kill)`."""

    @property
    def name(self) -> str: ...

    @property
    def url(self) -> str:
        """The same for as long as the run lasts, whatever happens to the server."""

    @property
    def host(self) -> str: ...

    @property
    def port(self) -> int: ...

    @property
    def version(self) -> str: ...

    @property
    def ours(self) -> bool:
        """Whether this run started it, and may do to it what follows; else that raises NotOurs."""

    def admin(self, *command: str) -> str:
        """The output of a command in the container: `admin("rabbitmqctl", "list_queues")`."""

    def logs(self) -> str:
        """What the server has printed."""

    def kill(self) -> None:
        """SIGKILL. What it has stored stays."""

    def start(self) -> None:
        """After `kill`; returns when it serves."""

    def restart(self) -> None:
        """Stop it politely and start it again; returns when it serves."""

    def pause(self) -> None:
        """Freeze its processes: connections stay, and nothing answers."""

    def unpause(self) -> None: ...

    def wait_ready(self, timeout: float = 90) -> None:
        """Return as soon as it serves."""

    def look(self) -> None:
        """Raise BrokerUnavailable, with what it said last, if it has ended."""


def skip_without_brokers() -> None:
    """For a test that starts a server in a way of its own."""
    if os.environ.get(SKIP) == "1" and "CI" not in os.environ:
        pytest.skip(f"{SKIP}=1")


def broker(name: str) -> Broker:
    """The broker of this name in the catalogue.

    One that cannot be had fails the test that asks for it. Outside CI, UNIBUS_TEST_SKIP_BROKERS=1 skips all such tests.
    """
    skip_without_brokers()
    with _starting:
        outcome = _started(name)
    if isinstance(outcome, BrokerUnavailable):
        raise outcome.with_traceback(None)
    outcome.look()
    return outcome


@cache
def _started(name: str) -> Broker | BrokerUnavailable:
    """An error is kept, too: what cannot be built is not built again for every test."""
    spec = CATALOGUE[CLUSTERS.get(name, name)]
    url = os.environ.get(variable(name))
    try:
        if url:
            server: Broker = External(name, url, spec)
        elif name in CLUSTERS:
            from tests.brokers.cluster import Cluster

            server = Cluster.run(name)
        else:
            from tests.brokers.container import Contained  # needs a container engine's client

            server = Contained.run(name, spec)
        server.wait_ready()
    except BrokerUnavailable as error:
        return error
    return server


def variable(name: str) -> str:
    """That names a server which runs already: UNIBUS_TEST_RABBITMQ_3_URL for rabbitmq-3."""
    return f"UNIBUS_TEST_{name.upper().replace('-', '_')}_URL"


class External:
    """A server that somebody else runs."""

    ours = False

    def __init__(self, name: str, url: str, spec: Spec) -> None:
        self.name = name
        self.url = url
        parts = urlsplit(url)
        self.host = parts.hostname or "127.0.0.1"
        self.port = parts.port or spec.usual_port
        self.version = ""
        self._probe = spec.probe

    def wait_ready(self, timeout: float = 90) -> None:
        deadline = time.monotonic() + min(timeout, 10)
        while (version := probe(self.url, self._probe)) is None:
            if time.monotonic() > deadline:
                raise BrokerUnavailable(f"{variable(self.name)} names a server that does not answer as {self.name}")
            time.sleep(0.05)
        self.version = version

    def look(self) -> None:
        pass

    def admin(self, *command: str) -> str:
        raise self._not_ours()

    def logs(self) -> str:
        raise self._not_ours()

    def kill(self) -> None:
        raise self._not_ours()

    def start(self) -> None:
        raise self._not_ours()

    def restart(self) -> None:
        raise self._not_ours()

    def pause(self) -> None:
        raise self._not_ours()

    def unpause(self) -> None:
        raise self._not_ours()

    def _not_ours(self) -> NotOurs:
        return NotOurs(
            f"{self.name} was named by {variable(self.name)}: tests do nothing to a server they did not start"
        )
