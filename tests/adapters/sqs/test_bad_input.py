"""What AWS would refuse, with the limit and the value named, before anything is sent where it can be known."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from tests.adapters.sqs.conftest import opened, out, subscribed, take
from unibus.driver import Outcome, Queue, SystemClock, Topic, TopicSubscription, Url
from unibus.errors import (
    AccessDenied,
    BatchError,
    ConfigurationError,
    ConnectionLost,
    MessageTooLarge,
    Rejected,
    UnsupportedCapability,
)
from unibus_sqs import connect
from unibus_sqs.limits import MAX_BYTES, MAX_PUBLISHED_BYTES

Name = Callable[[str], str]


@asynccontextmanager
async def refusing(code: str, status: int) -> AsyncIterator[str]:
    """The URL of a server that answers everything with one error, as AWS words it."""
    body = json.dumps({"__type": f"com.amazonaws.sqs#{code}", "message": "no"}).encode()
    head = f"HTTP/1.1 {status} no\r\ncontent-type: application/x-amz-json-1.0\r\ncontent-length: {len(body)}\r\n"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"{head}connection: close\r\n\r\n".encode() + body)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"sqs://eu-west-1?endpoint=http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("headers", [{f"h{n}": "v" for n in range(20)}, {"control": "a\x00b"}, {"AWS.x": ""}])
async def test_headers_that_sqs_would_refuse_arrive(url: str, name: Name, headers: dict[str, str]) -> None:
    orders = Queue(name("orders"))
    async with opened(url) as driver:
        subscription = await subscribed(driver, orders)
        await driver.send(orders, [out("1", headers=headers)])
        (delivery,) = await take(subscription, 1)
        assert dict(delivery.headers) == headers
        await subscription.settle([delivery], Outcome.ACK)


@pytest.mark.parametrize("body", [b"a\x00b", b"", b"\r\n", bytes(range(256)), None], ids=repr)
async def test_bodies_that_sqs_would_refuse_arrive(url: str, name: Name, body: bytes | None) -> None:
    orders = Queue(name("orders"))
    async with opened(url) as driver:
        subscription = await subscribed(driver, orders)
        await driver.send(orders, [out("1", body=body)])
        (delivery,) = await take(subscription, 1)
        assert delivery.body == body
        await subscription.settle([delivery], Outcome.ACK)


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")  # aiohttp, of more than 1 MiB in one piece
async def test_a_byte_too_many_is_refused_and_the_others_are_sent(moto: str, name: Name) -> None:
    orders = Queue(name("orders"))
    overhead = len('{"a":{"type":"t","id":"1"}}') + len("unibus") + len("String")
    async with opened(moto) as driver:
        subscription = await subscribed(driver, orders)
        bodies = [b"x" * (MAX_BYTES - overhead), b"x" * (MAX_BYTES - overhead + 1), b"small"]
        with pytest.raises(BatchError) as failed:
            await driver.send(orders, [out(str(n), body=body) for n, body in enumerate(bodies)])
        assert failed.value.errors.keys() == {1}, failed.value.errors
        error = failed.value.errors[1]
        assert isinstance(error, MessageTooLarge)
        assert (error.size, error.limit) == (MAX_BYTES + 1, MAX_BYTES)
        got = await take(subscription, 2)
        assert {len(delivery.body or b"") for delivery in got} == {MAX_BYTES - overhead, 5}
        await subscription.settle(got, Outcome.ACK)


async def test_sns_takes_less_than_sqs(moto: str, name: Name) -> None:
    async with opened(moto) as driver:
        with pytest.raises(BatchError) as failed:
            await driver.send(Topic(name("news")), [out("1", body=b"x" * MAX_PUBLISHED_BYTES), out("2")])
        error = failed.value.errors[0]
        assert failed.value.errors.keys() == {0}
        assert isinstance(error, MessageTooLarge)
        assert error.limit == MAX_PUBLISHED_BYTES == 262_144


async def test_without_credentials_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for variable in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(variable, "/nowhere")
    with pytest.raises(AccessDenied, match="found no credentials"):
        async with opened("sqs://eu-west-1?endpoint=http://127.0.0.1:9"):
            pass


@pytest.mark.parametrize("half", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
async def test_half_a_key_is_no_key(monkeypatch: pytest.MonkeyPatch, half: str) -> None:
    monkeypatch.delenv(half)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for variable in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(variable, "/nowhere")
    with pytest.raises(AccessDenied):
        async with opened("sqs://eu-west-1?endpoint=http://127.0.0.1:9"):
            pass


@pytest.mark.parametrize("code", ["InvalidClientTokenId", "SignatureDoesNotMatch", "ExpiredToken"])
async def test_credentials_that_are_refused_are_said_at_once(code: str) -> None:
    async with refusing(code, 403) as url:
        with pytest.raises(AccessDenied, match=code):
            async with opened(url):
                pass


async def test_who_lacks_a_right_is_told_where_it_is_needed(name: Name) -> None:
    orders = Queue(name("orders"))
    async with refusing("AccessDeniedException", 403) as url, opened(url) as driver:  # the right to list is not needed
        with pytest.raises(AccessDenied):
            await subscribed(driver, orders)
        with pytest.raises(BatchError) as failed:
            await driver.send(orders, [out("1")])
        assert isinstance(failed.value.errors[0], Rejected)
        assert isinstance(failed.value.errors[0].__cause__, AccessDenied)


async def test_where_nobody_answers_it_is_said() -> None:
    with pytest.raises(ConnectionLost):
        async with opened("sqs://eu-west-1?endpoint=http://127.0.0.1:9"):
            pass


@pytest.mark.parametrize("url", ["sqs://", "sqs://?endpoint=http://127.0.0.1:9", "sqs://localhost"])
def test_a_region_is_needed(url: str) -> None:
    with pytest.raises(ConfigurationError, match="region"):
        connect(Url(url), SystemClock())


async def test_an_order_and_a_delay_do_not_go_together(url: str, name: Name) -> None:
    async with opened(url) as driver:
        with pytest.raises(UnsupportedCapability):
            await driver.send(Queue(name("orders"), ordering="key"), [out("1", key="k", delay=1.0)])


async def test_without_topics_they_are_refused(elasticmq: str, name: Name) -> None:
    async with opened(elasticmq) as driver:
        with pytest.raises(UnsupportedCapability, match="topics=off"):
            await driver.send(Topic(name("news")), [out("1")])
        with pytest.raises(UnsupportedCapability, match="topics=off"):
            await subscribed(driver, TopicSubscription((name("news"),), name("group")))
