from __future__ import annotations

from tests.conftest import share


def test_tests_of_an_adapter_share_a_worker_whatever_their_module_and_parameters() -> None:
    ids = ("test_apart.py::test_a", "test_sending.py::test_b[x::y/z]", "test_secured.py::TestTls::test_c")
    assert {share(f"tests/adapters/kafka/{one}") for one in ids} == {"tests/adapters/kafka"}
    assert share("tests/adapters/redis/test_keys.py::test_a") == "tests/adapters/redis"


def test_cases_of_a_class_share_a_worker_but_for_those_that_are_split() -> None:
    cases = [f"test_{number}" for number in range(50)]
    assert len({share(f"tests/contract/test_redis.py::TestRedis8::{case}") for case in cases}) == 1
    assert len({share(f"tests/contract/test_kafka.py::TestKafka::{case}") for case in cases}) == 2
