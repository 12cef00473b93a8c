"""Small parts: ids, URLs, names, configuration, backoffs, waiting, key lines, dead-letter records."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from unibus import ConfigurationError, constant, exponential, linear
from unibus.attributes import MAX_ATTEMPT, parse_attempt, parse_first_failure, parse_time
from unibus.config import load
from unibus.dead_letters import MAX_STACK, DeadLetter, describe
from unibus.driver import Delivery, Url
from unibus.ids import Stamps
from unibus.keylines import KeyLines
from unibus.middleware.backoff import longest_wait, next_wait
from unibus.names import check_name, matches
from unibus.testing import MovableClock
from unibus.waiting import Waiting


def delivery(number: int, key: str | None = None) -> Delivery:
    return Delivery(b"", {}, {}, key, str(number), "orders", None, 1, False, number)


# --- ids ----------------------------------------------------------------------------------------------


async def test_ids_are_uuids_of_version_7_in_the_order_of_time() -> None:
    import uuid

    clock = MovableClock()
    stamps = Stamps(clock)
    made = []
    for _ in range(50):
        made += [stamps.next_id() for _ in range(20)]
        await clock.advance(0.001)
    assert made == sorted(set(made))
    first = uuid.UUID(made[0])
    assert (first.version, first.variant) == (7, uuid.RFC_4122)
    assert first.int >> 80 == int(clock.now() * 1000) - 50
    assert str(first) == made[0]


def test_ids_never_go_back_with_the_clock() -> None:
    class Wobbling(MovableClock):
        def now(self) -> float:
            return 1_700_000_000 + random.uniform(-5, 5)

    stamps = Stamps(Wobbling())
    made = [stamps.next_id() for _ in range(500)]
    assert made == sorted(set(made))


def test_ids_of_two_processes_differ() -> None:
    clock = MovableClock()
    one, other = Stamps(clock), Stamps(clock)
    assert not {one.next_id() for _ in range(1000)} & {other.next_id() for _ in range(1000)}


# --- names --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "topic", "expected"),
    [
        ("order.created", "order.created", True),
        ("order.created", "order.deleted", False),
        ("order.*", "order.created", True),
        ("order.*", "order", False),
        ("order.*", "order.item.created", False),
        ("*.created", "order.created", True),
        ("order.#", "order", True),
        ("order.#", "order.item.created", True),
        ("#", "anything.at.all", True),
        ("#.created", "created", True),
        ("#.created", "a.b.created", True),
        ("a.#.z", "a.z", True),
        ("a.#.z", "a.b.c.z", True),
        ("a.#.z", "a.b.c", False),
        ("*.*", "a.b", True),
        ("*", "a.b", False),
        ("#", "unibus.group.x", False),
        ("#", "orders.dlq", False),
        ("order-x.*", "order-x.y_1", True),
        ("order.*", "orderx.y", False),
    ],
)
def test_patterns_follow_amqp(pattern: str, topic: str, expected: bool) -> None:
    assert matches(pattern, topic) is expected


@given(
    st.lists(st.sampled_from(["a", "b", "*", "#"]), min_size=1, max_size=5),
    st.lists(st.sampled_from(["a", "b"]), max_size=5),
)
def test_patterns_agree_with_a_plain_recursive_definition(pattern: list[str], topic: list[str]) -> None:
    def match(pattern: list[str], topic: list[str]) -> bool:
        if not pattern:
            return not topic
        if pattern[0] == "#":
            return match(pattern[1:], topic) or (bool(topic) and match(pattern, topic[1:]))
        return bool(topic) and pattern[0] in ("*", topic[0]) and match(pattern[1:], topic[1:])

    if topic:
        assert matches(".".join(pattern), ".".join(topic)) == match(pattern, topic)


def test_the_longest_name_fits_the_tightest_broker() -> None:
    name = "a." + "b" * 52
    assert check_name(name, "queue") == name
    assert len(f"unibus--group--{name.replace('.', '--')}--dlq.fifo") == 80


# --- URLs ---------------------------------------------------------------------------------------------


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid")

    lease: float = 30


def test_a_url_is_parsed_and_hides_its_secrets() -> None:
    url = Url("amqp://me:p%40ss@host:5672/vhost?lease=5&password=x&sasl_user=y&aws_id=z")
    assert (url.scheme, url.username, url.password, url.host, url.port, url.path) == (
        "amqp",
        "me",
        "p@ss",
        "host",
        5672,
        "/vhost",
    )
    assert str(url) == "amqp://***@host:5672/vhost?lease=5&password=***&sasl_user=***&aws_id=***"
    assert repr(url) == f"Url({str(url)!r})"


def test_a_url_may_name_the_nodes_of_a_cluster() -> None:
    url = Url("x://me:a,b@one:9092,two,[::1]:9094/path")
    assert url.hosts == (("one", 9092), ("two", None), ("::1", 9094))
    assert (url.host, url.port, url.password) == ("one", 9092, "a,b")
    assert str(url) == "x://***@one:9092,two,[::1]:9094/path"
    with pytest.raises(ConfigurationError, match="port"):
        Url("x://one:9092,two:99999999")


def test_options_are_parsed_into_the_adapters_model() -> None:
    assert Url("x://?lease=5").parse_options(Options).lease == 5
    with pytest.raises(ConfigurationError, match=r"bad option.*lease: Input should be a valid number"):
        Url("x://?lease=long").parse_options(Options)
    with pytest.raises(ConfigurationError, match="did you mean 'lease'"):
        Url("x://?leese=1").parse_options(Options)
    with pytest.raises(ConfigurationError, match="port"):
        Url("x://host:99999999/")


# --- configuration --------------------------------------------------------------------------------------


def test_where_configuration_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNIBUS_URL", raising=False)
    assert load(tmp_path).url is None
    pyproject = (
        '[project]\nname = "x"\n[tool.unibus]\nurl = "memory://a"\n[tool.unibus.consumers.orders]\nconcurrency = 5\n'
    )
    (tmp_path / "pyproject.toml").write_text(pyproject)
    assert load(tmp_path).url == "memory://a"
    assert load(tmp_path).consumers["orders"].concurrency == 5
    (tmp_path / "unibus.toml").write_text('url = "memory://b"\n')
    assert load(tmp_path).url == "memory://b"
    monkeypatch.setenv("UNIBUS_URL", "memory://c")
    assert load(tmp_path).url == "memory://c"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("url = [", "not valid TOML"),
        ('colour = "red"', "colour"),
        ("[consumers.orders]\nconcurrency = 0", r"consumers\.orders\.concurrency"),
        ('[queues.orders]\nordering = "size"', r"queues\.orders\.ordering"),
    ],
)
def test_bad_configuration_names_the_file_and_the_key(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "unibus.toml").write_text(text)
    with pytest.raises(ConfigurationError, match=rf"unibus\.toml.*{says}"):
        load(tmp_path)


# --- backoffs -------------------------------------------------------------------------------------------


def test_backoffs() -> None:
    assert [exponential(1, max=60, jitter=None)(failures) for failures in (1, 2, 3, 7, 10_000)] == [1, 2, 4, 60, 60]
    assert constant(1.5)(9) == 1.5
    full = exponential(4, max=60)
    assert all(0 <= full(2) <= 8 for _ in range(200))
    assert max(full(2) for _ in range(200)) > 4
    assert min(full(2) for _ in range(200)) < 1
    assert longest_wait(full, 2) == 8
    default = exponential()
    assert (default.first, default.max, default.factor, default.jitter) == (1, 60, 2, "full")
    assert exponential(0, max=0, factor=1).longest(5) == 0
    for bad in ((5, 4, 2), (1, 5, 0.5), (61, 60, 2)):
        with pytest.raises(ConfigurationError, match=r"0 <= first <= max and factor >= 1"):
            exponential(bad[0], max=bad[1], factor=bad[2])
    assert longest_wait(lambda failures: failures * 3.0, 4) == 12
    assert exponential(1, max=60, factor=1e300, jitter=None)(10**6) == 60


def test_linear_backoff() -> None:
    assert [linear(2, step=3, max=10, jitter=None)(failures) for failures in (1, 2, 3, 4, 10**6)] == [2, 5, 8, 10, 10]
    assert linear(2, jitter=None)(3) == 6, "the step is the first wait unless it is said"
    assert linear(5, step=0, jitter=None)(9) == 5
    full = linear(4, max=60)
    assert all(0 <= full(3) <= 12 for _ in range(200))
    assert max(full(3) for _ in range(200)) > 6
    assert (longest_wait(full, 3), longest_wait(full, 100)) == (12, 60)
    with pytest.raises(ConfigurationError, match=r"0 <= first <= max"):
        linear(5, max=4)


def _fails(failures: int) -> float:
    raise KeyError(failures)


@pytest.mark.parametrize("bad", [lambda _: -1, lambda _: float("nan"), lambda _: None, lambda _: True, _fails])
def test_a_backoff_of_the_users_that_says_nonsense_is_named(bad: Callable[[int], float]) -> None:
    with pytest.raises(ConfigurationError, match=r"backoff .*(<lambda>|_fails).* 3 failures"):
        longest_wait(bad, 3)
    with pytest.raises(ConfigurationError):
        next_wait(bad, 3)


def test_a_backoff_of_the_users_may_give_a_timedelta() -> None:
    assert next_wait(lambda failures: timedelta(minutes=failures), 2) == 120


# --- waiting ---------------------------------------------------------------------------------------------


async def test_waiting_goes_on_in_the_order_of_time_with_one_timer() -> None:
    clock = MovableClock()
    went: list[tuple[int, float]] = []
    waiting = Waiting(clock, lambda delivery: went.append((delivery.token, clock.monotonic())))
    one, two, three = delivery(1), delivery(2), delivery(3)
    waiting.add(one, 10)
    waiting.add(two, 5)
    waiting.add(three, 20)
    assert (len(waiting), waiting.remaining(two)) == (3, 5)
    await clock.advance(10)
    assert went == [(2, 1005.0), (1, 1010.0)]
    waiting.release(three)
    assert went[-1] == (3, 1010.0)
    waiting.release(three)
    assert len(went) == 3
    await clock.advance(100)
    assert len(went) == 3


async def test_waiting_forgets_and_clears() -> None:
    clock = MovableClock()
    went: list[int] = []
    waiting = Waiting(clock, lambda delivery: went.append(delivery.token))
    one, two = delivery(1), delivery(2)
    waiting.add(one, 1)
    waiting.add(two, 3)
    assert waiting.remove(one)
    assert not waiting.remove(one)
    assert one not in waiting
    await clock.advance(2)
    assert waiting.clear() == {two: 1003.0}
    await clock.advance(10)
    assert went == []
    assert clock.next_due() is None
    waiting.add(one, 5)
    waiting.remove(one)
    waiting.add(one, 1)  # put back with another time: the old one is void
    await clock.advance(1)
    assert went == [1]


# --- key lines ---------------------------------------------------------------------------------------------


def test_one_of_a_key_at_a_time() -> None:
    lines = KeyLines()
    a1, a2, a3, b1, free = delivery(1, "a"), delivery(2, "a"), delivery(3, "a"), delivery(4, "b"), delivery(5)
    assert lines.admit([a1, a2, b1, free, a3]) == [a1, b1, free]
    assert lines.done(b1) is None
    assert lines.done(free) is None
    assert lines.done(a1) is a2
    b2 = delivery(6, "b")
    assert lines.admit([b1, b2]) == [b1]
    assert lines.remove({a3, b2}) == [a3, b2]
    assert lines.done(a2) is None
    assert lines.done(b1) is None
    assert lines.admit([a3]) == [a3]


# --- attributes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "attempt"),
    [("1", 1), ("7", 7), ("0", 1), ("-1", 1), ("NaN", 1), ("", 1), ("1.5", 1), ("٣", 1), ("9" * 50, MAX_ATTEMPT)],
)
def test_attempts_are_parsed_strictly_and_clamped(text: str, attempt: int) -> None:
    assert parse_attempt({"unibusattempt": text}) == attempt


def test_times_are_parsed_or_not() -> None:
    assert parse_time("nonsense") is None
    assert parse_time(None) is None
    for text in ("2026-01-01T00:00:00Z", "2026-01-01T01:00:00+01:00", "2026-01-01T00:00:00"):
        parsed = parse_time(text)
        assert parsed is not None
        assert parsed.isoformat() == "2026-01-01T00:00:00+00:00"
    assert parse_time("0001-01-01T00:00:00+14:00") is None, "before the calendar of UTC begins"


def test_a_first_failure_to_come_is_none() -> None:
    now = MovableClock().now()
    assert parse_first_failure({"unibusfirst": "2026-01-01T00:00:00.001Z"}, now) is None
    assert parse_first_failure({"unibusfirst": "2026-01-01T00:00:00Z"}, now) is not None
    assert parse_first_failure({"unibusfirst": "yesterday"}, now) is None
    assert parse_first_failure({}, now) is None


# --- dead letters ----------------------------------------------------------------------------------------------


def test_a_record_survives_its_attributes_and_is_cut_from_the_stack() -> None:
    try:
        raise ConnectionError("x" * 5000)
    except ConnectionError as error:
        record = describe(error)
    assert len(record.message) == 1024
    assert len(record.stack.encode()) <= MAX_STACK
    assert DeadLetter.from_attributes(record.to_attributes()) == record
    cut = record.cut(100)
    assert len(cut.stack.encode()) == len(record.stack.encode()) - 100
    assert cut.stack == record.stack[100:]
    short = record.cut(len(record.stack.encode()) + 24)
    assert (short.stack, len(short.message)) == ("", 1000)
    assert DeadLetter.from_attributes({"type": "Order"}) is None
    assert DeadLetter.from_attributes({"unibusdlreason": "x", "unibusdlattempts": "many"}) == DeadLetter("x")


async def test_what_was_released_early_leaves_nothing_behind() -> None:
    clock = MovableClock()
    waiting = Waiting(clock, lambda delivery: None)
    for number in range(5000):
        waiting.add(late := delivery(number), 60)
        waiting.release(late)
    assert len(waiting._heap) < 100
