"""How to talk with a container engine."""

from __future__ import annotations

from contextlib import closing

import docker
from docker.errors import DockerException
from requests import RequestException


def connect(url: str, timeout: float = 60) -> docker.DockerClient:
    """timeout: seconds of silence in the middle of an answer."""
    return docker.DockerClient(base_url=url, timeout=int(timeout))


def answers(url: str) -> bool:
    try:
        with closing(connect(url, timeout=5)) as client:
            return bool(client.ping())
    except (DockerException, RequestException, OSError):
        return False
