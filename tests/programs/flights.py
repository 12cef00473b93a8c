"""The main job on one broker."""

from __future__ import annotations

import json
from typing import ClassVar

import pytest

from tests.brokers import broker
from tests.examples.commands import python


class OnOne:
    """server: in the catalogue of brokers. scheme: where it is not the catalogue's."""

    server: ClassVar[str]
    scheme: ClassVar[str] = ""

    @property
    def url(self) -> str:
        own, _, rest = broker(self.server).url.partition("://")
        return f"{self.scheme or own}://{rest}"


class OnSqs(OnOne):
    server = "moto"

    @property
    def url(self) -> str:
        return f"sqs://eu-west-1?endpoint={broker(self.server).url}&wait=1"

    @pytest.fixture(autouse=True)
    def credentials(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of nobody: moto takes any."""
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "test")


class Flights(OnOne):
    """limit: seconds for all of them."""

    options: ClassVar[tuple[str, ...]] = ()
    limit: ClassVar[int] = 280

    @pytest.mark.timeout(300)
    def test_the_flights_balance(self) -> None:
        command = ("-m", "examples.flights", "--url", self.url, "--purge", "--json", *self.options)
        ended = python(*command, timeout=self.limit)
        assert ended.returncode == 0, ended.stderr
        books = json.loads(ended.stdout.splitlines()[-1])
        assert (books["read"], books["handled"], books["dead_lettered"]) == (27_004, 26_483, 521)
        if not self.options:
            assert books["counted"] == 26_483
