"""This process's hold on the container engine, through a guardian that ends everything with it."""

from __future__ import annotations

import atexit
import json
import subprocess
import sys
from contextlib import suppress
from functools import cache

from tests.brokers import client
from tests.brokers.engine import Engine, labels
from tests.brokers.errors import BrokerUnavailable
from tests.brokers.places import CACHE, ROOT


class Lease:
    def __init__(self) -> None:
        CACHE.mkdir(parents=True, exist_ok=True)
        with (CACHE / "guardian.log").open("ab") as log:
            self.guardian = subprocess.Popen(
                [sys.executable, "-m", "tests.brokers.guardian"],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        atexit.register(self.end)
        assert self.guardian.stdout is not None
        answer = json.loads(self.guardian.stdout.readline() or '{"error": "the guardian died: see guardian.log"}')
        if "error" in answer:
            raise BrokerUnavailable(answer["error"])
        self.engine = Engine(answer["url"], answer["own"])
        self.session: str = answer["session"]
        self.labels = labels(self.session)
        self.docker = client.connect(self.engine.url)

    def end(self) -> None:
        """Return when all is gone."""
        if hasattr(self, "docker"):
            self.docker.close()
        for pipe in (self.guardian.stdin, self.guardian.stdout):
            assert pipe is not None
            with suppress(OSError):
                pipe.close()
        self.guardian.wait()


@cache
def lease() -> Lease:
    """Of this process; made when the first container or image is needed."""
    return Lease()
