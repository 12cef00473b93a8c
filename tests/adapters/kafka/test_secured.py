"""TLS, logins and rights, on a server that has all of them. No secret is shown, whatever happens."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.admin import CreateAclsRequest

from tests.adapters.kafka.conftest import Events, opened, out, subscribed, take, until
from tests.adapters.kafka.secured import GUEST, MEMBER, PASSWORD, USER, Secured, secured, unsigned_token
from tests.brokers.servers import skip_without_brokers
from unibus import Bus, Message, constant, retry
from unibus.driver import Disconnected, Outcome, Queue, SystemClock, Topic, TopicSubscription, Topology, Url
from unibus.errors import AccessDenied, BatchError, ConfigurationError, ConnectionLost, UnibusError
from unibus_kafka import KafkaDriver

Name = Callable[[str], str]
SOON = "&session=3&revoke=3&metadata_age=0.5&partitions=2"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    skip_without_brokers()
    with secured(tmp_path_factory.mktemp("kafka")) as server:
        yield server


@pytest.fixture(autouse=True)
def _discretion(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Of everything that is logged, by anybody."""
    caplog.set_level(logging.DEBUG)
    yield
    shown = [logging.Formatter().format(record) for record in caplog.get_records("call")]
    assert not [line for line in shown if PASSWORD in line]


@pytest.fixture
def token(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(unsigned_token(USER, PASSWORD))
    return file


WAYS: dict[str, Callable[[Secured, Path], str]] = {
    "scram-sha-512": lambda server, token: server.login("scram-sha-512"),
    "scram-sha-256": lambda server, token: server.login("scram-sha-256"),
    "plain": lambda server, token: server.login("plain"),
    "oauthbearer": lambda server, token: server.token(token),
    "without a login": lambda server, token: server.tls(server.trusted),
    "a certificate of our own": lambda server, token: server.mutual(server.trusted, server.client),
    "without tls": lambda server, token: f"{server.clear('scram-sha-256')}&timeout=10",
}


@pytest.mark.parametrize("way", WAYS)
async def test_all_goes_over_it(way: str, server: Secured, token: Path, name: Name) -> None:
    """Records, delays and their forwarders, groups, and what is asked of the cluster."""
    url = WAYS[way](server, token) + SOON
    queue, topic = Queue(name("orders")), Topic(name("opened"))
    async with opened(url) as driver:
        consumer, group = await asyncio.gather(
            subscribed(driver, queue), subscribed(driver, TopicSubscription((topic.name,), name("mail")))
        )
        began = time.time()
        await driver.send(queue, [out("now"), out("later", delay=0.7)])
        await driver.send(topic, [out("published", topic=topic.name)])
        got = await take(consumer, 2)
        assert [delivery.message_id for delivery in got] == ["now", "later"]
        assert time.time() - began >= 0.7
        await consumer.settle(got, Outcome.ACK)
        await group.settle(await take(group, 1), Outcome.ACK)
        assert (await driver.depth(queue)).ready == 0
        await asyncio.gather(consumer.close(), group.close())


REFUSED: dict[str, tuple[Callable[[Secured], str], type[UnibusError], str]] = {
    "a wrong password": (
        lambda s: s.login("scram-sha-512", password=f"{PASSWORD}x"),
        AccessDenied,
        "check user, password",
    ),
    "of plain": (lambda s: s.login("plain", password=f"{PASSWORD}x"), AccessDenied, "check user, password"),
    "an unknown user": (lambda s: s.login("scram-sha-256", user="nobody"), AccessDenied, "check user, password"),
    "another mechanism": (lambda s: s.clear("scram-sha-512"), AccessDenied, "the server offers another; check sasl="),
    "a login that is not wanted": (
        lambda s: s.tls(s.trusted, user=f"{USER}:{PASSWORD}@"),
        AccessDenied,
        "check sasl= and tls=",
    ),
    "a certificate that nobody vouches for": (lambda s: s.tls(), ConnectionLost, "cafile="),
    "a certificate of another host": (
        lambda s: s.tls(s.trusted, host="localhost"),
        ConnectionLost,
        "not valid for 'localhost'",
    ),
    "no certificate of our own": (lambda s: s.mutual(s.trusted), ConnectionLost, "certfile="),
    "tls where there is none": (lambda s: f"{s.plain}?tls=on", ConnectionLost, "check host, port, tls="),
    "no tls where there is": (lambda s: s.tls().replace("?tls=on", ""), ConnectionLost, "check host, port, tls="),
    "an address that does not resolve": (lambda s: s.lost, ConnectionLost, "nowhere.invalid"),
    "plain without tls": (lambda s: s.clear("plain"), ConfigurationError, "add tls=on"),
    "a token that is not there": (
        lambda s: s.token(Path("/nowhere")),
        ConfigurationError,
        "give the path of the token",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_one_error_says_soon_what_is_wrong(what: str, server: Secured) -> None:
    make, expected, says = REFUSED[what]
    began = time.monotonic()
    with pytest.raises(expected) as refused:
        async with Bus(make(server)):
            pass
    assert time.monotonic() - began < 30
    assert says in str(refused.value)
    assert PASSWORD not in "".join(traceback.format_exception(refused.value))


async def test_plain_without_tls_is_refused_before_anything_is_sent() -> None:
    """Also to this machine: the address that the server advertises may be another's."""
    with pytest.raises(ConfigurationError, match="sends its secret as it is"):
        KafkaDriver(Url(f"kafka://{USER}:{PASSWORD}@127.0.0.1:1?sasl=plain"), SystemClock())


async def test_a_token_that_the_server_does_not_take(server: Secured, tmp_path: Path) -> None:
    for text in (unsigned_token(USER, PASSWORD, seconds=-60), f"no token {PASSWORD}"):
        (tmp_path / "token").write_text(text)
        with pytest.raises(AccessDenied, match="check"):
            async with opened(server.token(tmp_path / "token")):
                pass


async def test_a_server_that_cannot_prove_that_it_knows_the_password(server: Secured) -> None:
    """Nor can whoever stands in its place, and hands on the user's part."""

    async def hand_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(re.sub(rb"v=[A-Za-z0-9+/]{4}", b"v=AAAA", data))
        writer.close()

    async def stand_between(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection("127.0.0.1", urlsplit(server.clear("scram-sha-256")).port)
        await asyncio.gather(hand_on(reader, there[1]), hand_on(there[0], writer))

    async with await asyncio.start_server(stand_between, "127.0.0.1", 0) as between:
        port = between.sockets[0].getsockname()[1]
        with pytest.raises(AccessDenied, match="make sure that it is the server") as refused:
            async with opened(f"kafka://{USER}:{PASSWORD}@127.0.0.1:{port}?sasl=scram-sha-256"):
                pass
    assert PASSWORD not in "".join(traceback.format_exception(refused.value))


async def test_any_certificate_will_do_where_the_url_says_so(server: Secured) -> None:
    async with opened(server.tls("&insecure=on", host="localhost")):
        pass


# --- rights ---------------------------------------------------------------------------------------------

TOPIC, GROUP, CLUSTER = 2, 3, 4
READ, WRITE, CREATE, DESCRIBE = 3, 4, 5, 8
_LITERAL, _PREFIXED = 3, 4
_DENY, _ALLOW = 2, 3


async def allow(
    server: Secured,
    kind: int,
    name: str,
    *operations: int,
    permission: int = _ALLOW,
    pattern: int = _LITERAL,
    user: str = GUEST,
) -> None:
    client = AIOKafkaClient(bootstrap_servers=server.plain.removeprefix("kafka://"))
    await client.bootstrap()
    node = client.get_random_node()
    for operation in operations:
        wanted = CreateAclsRequest(kind, name, pattern, f"User:{user}", "*", operation, permission)
        answer = await client.send(node, wanted)
        assert [code for code, _ in answer.creation_responses] == [0]
    await client.close()


@asynccontextmanager
async def guest(server: Secured, options: str = "") -> AsyncIterator[KafkaDriver]:
    async with opened(server.login("plain", user=GUEST, options=SOON + options)) as driver:
        yield driver


@pytest.fixture
async def orders(server: Secured, name: Name) -> Queue:
    queue = Queue(name("orders"))
    async with opened(f"{server.plain}?{SOON[1:]}") as driver:
        await driver.declare(Topology(create=(queue,)))
        await driver.send(queue, [out(n) for n in range(3)])
    return queue


async def test_who_may_not_write_is_told_so(server: Secured, orders: Queue, name: Name) -> None:
    async with guest(server) as driver:
        await is_denied(driver, orders)
        await allow(server, TOPIC, orders.name, DESCRIBE)
        await until(lambda: knows(driver, orders), "the right is known")
        await is_denied(driver, orders)
        await allow(server, TOPIC, name("other"), WRITE)
        await is_denied(driver, orders)
        await allow(server, TOPIC, orders.name, WRITE)
        await until(lambda: sends(driver, orders), "the right is known")
        with pytest.raises(BatchError) as failed:
            await driver.send(orders, [out("now"), out("later", delay=1), out("now, too")])
        assert failed.value.errors.keys() == {1}, "it may not make what holds delays"
        assert isinstance(failed.value.errors[1], AccessDenied)


async def is_denied(driver: KafkaDriver, queue: Queue) -> None:
    began = time.monotonic()
    with pytest.raises(BatchError) as failed:
        await driver.send(queue, [out("refused"), out("later", delay=1)])
    assert time.monotonic() - began < 30
    for error in failed.value.errors.values():
        assert isinstance(error, AccessDenied)
        assert "the right to" in str(error)
    assert failed.value.errors.keys() == {0, 1}


async def test_whom_one_topic_is_denied_publishes_to_the_others(server: Secured, orders: Queue, name: Name) -> None:
    open_to_all, denied = Topic(name("open")), Topic(name("denied"))
    await allow(server, TOPIC, open_to_all.name, CREATE, WRITE)
    async with guest(server) as driver:
        await until(lambda: sends(driver, open_to_all), "the right is known")
        messages = [out(topic, topic=topic.name) for topic in (open_to_all, denied, open_to_all)]
        with pytest.raises(BatchError) as failed:
            await driver.send(open_to_all, messages)
        assert failed.value.errors.keys() == {1}
        assert isinstance(failed.value.errors[1], AccessDenied)


async def test_who_may_not_read_is_told_so_at_the_start(server: Secured, orders: Queue) -> None:
    group = f"unibus.queue.{orders.name}"
    async with guest(server) as driver:
        with pytest.raises(AccessDenied, match="the right to this topic"):
            await driver.subscribe(orders, prefetch=10, notify=Events())
        await allow(server, TOPIC, orders.name, DESCRIBE)
        await until(lambda: knows(driver, orders), "the right is known")
        with pytest.raises(AccessDenied, match="the right to this topic"):
            await driver.subscribe(orders, prefetch=10, notify=Events())
        await allow(server, TOPIC, orders.name, READ)
        await until(lambda: says(driver, orders, "the right to this consumer group"), "the group is missed")
        await allow(server, GROUP, group, READ)
        await until(lambda: reads(driver, orders), "the right is known")


async def test_the_rights_that_are_written_down_are_enough(server: Secured, name: Name) -> None:
    """In the adapter's README: for a program that declares, sends, consumes, retries, and dead-letters."""
    for topic, *operations in (
        (name("orders"), READ, WRITE, CREATE),
        (name("orders.dlq"), READ, WRITE, CREATE),
        (name("user.created"), READ, WRITE, CREATE),
        (f"unibus.group.{name('mail')}", READ, WRITE, CREATE),
        (f"unibus.group.{name('mail')}.dlq", READ, WRITE, CREATE),
    ):
        await allow(server, TOPIC, str(topic), *operations, user=MEMBER)
    await allow(server, TOPIC, "unibus.delay.", READ, WRITE, CREATE, pattern=_PREFIXED, user=MEMBER)
    await allow(server, GROUP, "unibus.", READ, pattern=_PREFIXED, user=MEMBER)
    bus, attempts = Bus(server.login("plain", user=MEMBER, options=SOON)), list[tuple[str, int]]()

    @bus.consumer(name("orders"))
    @bus.subscriber(name("user.*"), group=name("mail"))
    @retry(on=ConnectionError, attempts=2, backoff=constant(1.2))
    async def handle(message: Message[str]) -> None:
        attempts.append((message.data, message.attempt))
        raise ConnectionError

    async with bus, bus.consuming():
        await bus.producer(name("orders")).send("order", delay=0.5)
        await bus.publisher(name("user.created")).publish("user")
        await until(lambda: len(attempts) == 4, "both are tried twice")
    async with Bus(f"{server.plain}?{SOON[1:]}") as all_rights:
        for queue in (name("orders.dlq"), f"unibus.group.{name('mail')}.dlq"):
            async with all_rights.pull(queue=queue, type=bytes) as letters:
                letter = await letters.next(20)
                assert letter is not None
                await letter.ack()
    assert sorted(attempts) == [("order", 1), ("order", 2), ("user", 1), ("user", 2)]


async def test_a_right_that_is_taken_away_is_told(server: Secured, orders: Queue) -> None:
    events = Events()
    await allow(server, TOPIC, orders.name, READ)
    await allow(server, GROUP, f"unibus.queue.{orders.name}", READ)
    async with guest(server) as driver:
        await until(lambda: reads(driver, orders), "the right is known")
        subscription = await driver.subscribe(orders, prefetch=10, notify=events)
        await allow(server, TOPIC, orders.name, READ, permission=_DENY)
        await until(lambda: bool(events.of(Disconnected)), "it is told")
        assert "the right to this topic" in events.of(Disconnected)[0].reason
        await subscription.close()


async def test_who_may_not_create_is_told_so(server: Secured, name: Name) -> None:
    async with guest(server) as driver:
        with pytest.raises(AccessDenied):
            await driver.declare(Topology(create=(Queue(name("new")),)))


async def knows(driver: KafkaDriver, queue: Queue) -> bool:
    try:
        await driver.declare(Topology(verify=(queue,)))
    except AccessDenied:
        return False
    return True


async def sends(driver: KafkaDriver, address: Queue | Topic) -> bool:
    try:
        await driver.send(address, [out("sent", topic=address.name)])
    except (AccessDenied, BatchError):
        return False
    return True


async def says(driver: KafkaDriver, queue: Queue, words: str) -> bool:
    with pytest.raises(AccessDenied) as denied:
        await driver.subscribe(queue, prefetch=10, notify=Events())
    return words in str(denied.value)


async def reads(driver: KafkaDriver, queue: Queue) -> bool:
    try:
        subscription = await driver.subscribe(queue, prefetch=10, notify=Events())
    except AccessDenied:
        return False
    await take(subscription, 3)
    await subscription.close()
    return True
