"""The main job where it takes minutes, and on older servers: these run with the faults."""

from __future__ import annotations

import pytest

from tests.programs.flights import Flights, OnSqs


class TestSqs(OnSqs, Flights):
    """moto looks through all messages of a queue for each call."""

    limit = 580

    @pytest.mark.timeout(600)
    def test_the_flights_balance(self) -> None:
        super().test_the_flights_balance()


class TestRabbitMQ3(Flights):
    server = "rabbitmq-3"


class TestRedis7(Flights):
    server = "redis-7"
