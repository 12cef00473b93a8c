"""The README's program, the examples and the main job on every broker, with nothing but the URL changed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.examples.commands import python
from tests.examples.test_one_idea import ON_OTHER_BROKERS, assert_says
from tests.programs.flights import Flights, OnOne, OnSqs
from tests.unit.test_readme import examples


class Short(OnOne):
    def test_the_program_of_the_readme_prints_the_same(self, tmp_path: Path) -> None:
        code, output = examples()["orders.py"]
        (tmp_path / "orders.py").write_text(code)
        command = [sys.executable, "orders.py", self.url]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert done.stderr == ""
        # Unordered queues and groups: on several partitions the lines may come in another order.
        assert sorted(done.stdout.splitlines()) == sorted(output.splitlines())

    def test_the_shop_tells_the_same_story_as_in_memory(self) -> None:
        ended = python("-m", "examples.swap", "memory://", self.url)
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.endswith(": the same\n")


class Programs(Flights, Short):
    @pytest.mark.parametrize("example", [*ON_OTHER_BROKERS, "ordering"])
    def test_an_example_runs_with_nothing_but_its_url_changed(self, example: str) -> None:
        assert_says(example, "--url", self.url, essential=[])


class TestRabbitMQ(Programs):
    server = "rabbitmq"


class TestRabbitMQ3(Short):
    server = "rabbitmq-3"


class TestRedis(Programs):
    server = "redis"


class TestRedis7(Short):
    server = "redis-7"


class TestRedisPubSub(Flights):
    server = "redis"
    scheme = "redis+pubsub"
    options = ("--at-most-once",)

    def test_the_shop_is_refused_until_it_accepts_losses(self) -> None:
        refused = python("-m", "examples.swap", self.url)
        assert refused.returncode == 1
        assert 'says guarantee="at_most_once"' in refused.stderr
        ended = python("-m", "examples.swap", "--at-most-once", "memory://", self.url)
        assert ended.returncode == 0, ended.stderr


class TestKafka(Programs):
    server = "kafka"


class TestSqs(OnSqs, Short):
    @pytest.mark.parametrize("example", sorted({*ON_OTHER_BROKERS} - {"publish_subscribe"}))
    def test_an_example_runs_with_nothing_but_its_url_changed(self, example: str) -> None:
        assert_says(example, "--url", self.url, essential=[])

    def test_a_subscriber_without_a_group_is_refused(self) -> None:
        refused = python("-m", "examples.publish_subscribe", "--url", self.url)
        assert refused.returncode == 1
        assert refused.stderr.startswith("error: this broker cannot do what the program asks: ")
