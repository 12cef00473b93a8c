"""The container engine of this run: the one that runs here, else one of our own; and what is removed afterwards."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass

from docker.errors import APIError, NotFound
from docker.models.containers import Container
from testcontainers.core.docker_client import get_docker_host

from tests.brokers import dockerd, sessions
from tests.brokers.client import answers, connect
from tests.brokers.errors import BrokerUnavailable
from tests.brokers.places import OWNER, SOCKET, exclusive

SESSION_LABEL = "unibus.tests.session"
OWNER_LABEL = "unibus.tests.owner"


@dataclass(frozen=True)
class Engine:
    url: str
    own: bool


def acquire() -> tuple[Engine, sessions.Session]:
    """An engine that runs, without what killed runs of ours left in it."""
    with exclusive("engine"):
        session = sessions.Session()
        try:
            engine = _find_or_start()
            alive = sessions.alive()
            _remove_containers(engine.url, lambda of: of not in alive)
        except BaseException:
            session.end()
            raise
    return engine, session


def release(engine: Engine, session: sessions.Session) -> None:
    """Remove the containers of this session; the last one stops an engine of our own."""
    with exclusive("engine"):
        session.end()
        alive = sessions.alive()
        try:
            _remove_containers(engine.url, lambda of: of not in alive)
        finally:
            if engine.own and not alive:
                dockerd.stop()


def labels(session: str) -> dict[str, str]:
    return {SESSION_LABEL: session, OWNER_LABEL: OWNER}


def _find_or_start() -> Engine:
    configured = get_docker_host()
    url = configured or "unix:///var/run/docker.sock"
    if answers(url):
        return Engine(url, own=False)
    if configured and "DOCKER_HOST" in os.environ:
        raise BrokerUnavailable(f"no container engine answers at {configured}, where DOCKER_HOST says it is")
    if not dockerd.possible():
        raise BrokerUnavailable(
            "no container engine is running: install Docker and start it, or name running servers in "
            "UNIBUS_TEST_RABBITMQ_URL and the like"
        )
    dockerd.start()
    return Engine(SOCKET, own=True)


def _remove_containers(url: str, is_to_go: Callable[[str], bool]) -> None:
    with closing(connect(url)) as client:
        ours = client.containers.list(all=True, filters={"label": f"{OWNER_LABEL}={OWNER}"}, ignore_removed=True)
        for container in ours:
            if is_to_go(container.labels.get(SESSION_LABEL, "")):
                with suppress(NotFound):
                    _remove(container)


def _remove(container: Container) -> None:
    try:
        container.remove(force=True, v=True)
    except APIError as error:
        if error.status_code != 409:  # somebody else is removing it
            raise
