"""What a confirm is worth: said, and where it is asked to be worth more, waited for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest

from tests.adapters.redis.conftest import another, opened, out, plain, until
from tests.brokers import Broker
from unibus import Bus
from unibus.driver import Queue, Topology
from unibus.errors import BatchError, ConfigurationError, OutcomeUnknown, UnsupportedCapability

Name = Callable[[str], str]


async def test_an_append_only_file_is_a_disk(server: Broker, caplog: pytest.LogCaptureFixture) -> None:
    async with opened(server.url) as driver:
        assert driver.capabilities.confirmed == "disk"
    async with Bus(server.url, durable=True):
        pass
    assert not caplog.records


async def test_without_one_it_is_memory_which_is_said_once_and_refused_where_it_matters(
    server: Broker, name: Name, caplog: pytest.LogCaptureFixture
) -> None:
    async with another(server, "--appendonly", "no") as port:
        url = f"redis://127.0.0.1:{port}/0"
        with caplog.at_level(logging.WARNING):
            async with opened(url) as driver:
                assert driver.capabilities.confirmed == "memory"
                assert any("process dies" in note for note in driver.capabilities.notes)
                await driver.declare(Topology(create=(Queue(name("orders")),)))
                for _ in range(3):
                    await driver.send(Queue(name("orders")), [out("1")])
        assert len([one for one in caplog.records if "appendonly yes" in one.getMessage()]) == 1
        with pytest.raises(UnsupportedCapability, match="durable"):
            async with Bus(url, durable=True):
                pass
        with pytest.raises(ConfigurationError):
            async with opened(url + "?fsync=1"):
                pass


async def test_fsync_waits_for_the_disk(newest: Broker, name: Name) -> None:
    queue = Queue(name("orders"))
    async with opened(newest.url + "?fsync=1") as driver, plain(newest.url) as client:
        assert driver.capabilities.confirmed == "disk"
        await driver.declare(Topology(create=(queue,)))
        await driver.send(queue, [out("1"), out("2", headers={"h": "1"})])
        assert await client.xlen(queue.name) == 2
        calls = [asyncio.ensure_future(driver.send(queue, [out(str(n))])) for n in range(4)]
        await asyncio.gather(*calls)
        stats = await client.info("commandstats")
        assert stats["cmdstat_waitaof"]["calls"] >= 5


async def test_fsync_needs_a_server_that_has_it() -> None:
    from tests.brokers import broker

    with pytest.raises(ConfigurationError, match="needs Redis 7"):
        async with opened(broker("redis-7").url + "?fsync=1"):
            pass


async def test_a_confirm_of_replicas_is_unknown_without_them(server: Broker, name: Name) -> None:
    queue = Queue(name("orders"))
    async with another(server, "--appendonly", "yes") as port:
        url = f"redis://127.0.0.1:{port}/0"
        async with opened(url + "?replicas=1&timeout=1") as driver, plain(url) as client:
            assert driver.capabilities.confirmed == "replicas"
            await driver.declare(Topology(create=(queue,)))
            with pytest.raises(BatchError) as failed:
                await driver.send(queue, [out("1")])
            assert isinstance(failed.value.errors[0], OutcomeUnknown)
            assert "0 of 1" in str(failed.value)
            assert await client.xlen(queue.name) == 1, "it is stored, which is why it is unknown"
            async with another(server, "--replicaof", f"127.0.0.1 {port}"):

                async def connected() -> bool:
                    return bool((await client.info("replication"))["connected_slaves"])

                await until(connected)

                async def confirmed() -> bool:
                    try:
                        await driver.send(queue, [out("2")])
                    except BatchError:
                        return False
                    return True

                await until(confirmed)
