"""Ways to run Redis: behind TLS, under sentinels, as a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from tests.adapters.redis.conftest import Events, another, answers, free_port, ids, opened, out, plain, take, until
from tests.brokers import Broker
from tests.brokers.certificates import self_signed
from unibus import Bus, Message
from unibus.driver import Outcome, Queue, SystemClock, Topology, Url
from unibus.errors import BatchError, ConnectionLost
from unibus.idempotency.store import Held, New
from unibus_redis import connect_store

Name = Callable[[str], str]


# --- TLS ------------------------------------------------------------------------------------------------


@pytest_asyncio.fixture
async def tls(server: Broker, tmp_path: Path) -> AsyncIterator[int]:
    """The port of a server with a certificate for 127.0.0.1, which stands in `ca.pem` beside its key."""
    await asyncio.to_thread(self_signed, tmp_path, "ca")
    port, folder = free_port(), f"/tmp/{tmp_path.name}"
    if not server.ours:
        pytest.skip("needs a container in which it may start another server")
    for name in ("ca-key.pem", "ca.pem"):
        text = (tmp_path / name).read_text()
        server.admin("sh", "-c", f"mkdir -p {folder} && cat > {folder}/{name} <<'END'\n{text}END\n")
    options = ["--tls-port", str(port), "--tls-cert-file", f"{folder}/ca.pem", "--tls-key-file", f"{folder}/ca-key.pem"]
    async with another(server, *options, "--tls-ca-cert-file", f"{folder}/ca.pem", "--tls-auth-clients", "no"):
        yield port


async def test_tls_is_verified(tls: int, tmp_path: Path, name: Name) -> None:
    queue, url = Queue(name("orders")), f"rediss://127.0.0.1:{tls}/0"
    async with opened(f"{url}?cafile={tmp_path}/ca.pem") as driver:
        await driver.declare(Topology(create=(queue,)))
        subscription = await driver.subscribe(queue, prefetch=10, notify=Events())
        await driver.send(queue, [out("1"), out("2", delay=0.2)])
        assert ids(await take(subscription, 2)) == ["1", "2"]
    with pytest.raises(ConnectionLost, match="certificate verify failed"):
        async with opened(url):
            pass
    with pytest.raises(ConnectionLost, match="certificate verify failed"):
        async with opened(f"rediss://localhost:{tls}/0?cafile={tmp_path}/ca.pem"):
            pass
    async with opened(f"{url}?insecure=1"):
        pass


# --- sentinels ------------------------------------------------------------------------------------------


@asynccontextmanager
async def sentinel(server: Broker, master: int) -> AsyncIterator[int]:
    port = free_port()
    folder = f"/tmp/sentinel-{port}"
    lines = [
        f"port {port}", "bind 127.0.0.1", f"dir {folder}", f"pidfile {folder}/pid", "daemonize yes",
        f"sentinel monitor main 127.0.0.1 {master} 1", "sentinel down-after-milliseconds main 500",
        "sentinel failover-timeout main 3000",
    ]  # fmt: skip
    text = "\n".join(lines)
    server.admin("sh", "-c", f"mkdir -p {folder} && printf '%s\\n' '{text}' > {folder}/conf")
    server.admin("redis-server", f"{folder}/conf", "--sentinel")
    try:
        await until(lambda: answers(server, ["-p", str(port)]))
        yield port
    finally:
        await asyncio.to_thread(server.admin, "sh", "-c", f"kill -9 $(cat {folder}/pid); rm -rf {folder}")


async def test_a_failover_is_followed(server: Broker, name: Name) -> None:
    queue, events, aof = Queue(name("orders")), Events(), ["--appendonly", "yes"]
    async with AsyncExitStack() as stack:
        master = await stack.enter_async_context(another(server, *aof))
        follows = ["--replicaof", f"127.0.0.1 {master}", *aof]
        replica = await stack.enter_async_context(another(server, *follows))
        watching = await stack.enter_async_context(sentinel(server, master))

        def knows_the_replica() -> bool:
            return str(replica) in server.admin("redis-cli", "-p", str(watching), "sentinel", "replicas", "main")

        await until(knows_the_replica)
        driver = await stack.enter_async_context(
            opened(f"redis+sentinel://127.0.0.1:1,127.0.0.1:{watching}/main/0?timeout=2")
        )
        await driver.declare(Topology(create=(queue,)))
        subscription = await driver.subscribe(queue, prefetch=10, notify=events)
        await driver.send(queue, [out("before")])
        await subscription.settle(await take(subscription, 1), Outcome.ACK)
        receiving = asyncio.ensure_future(take(subscription, 1, 60))
        server.admin("redis-cli", "-p", str(watching), "sentinel", "failover", "main")

        def changed_places() -> bool:
            """Until then the old master takes what the new one will never see."""
            try:
                said = [server.admin("redis-cli", "-p", str(port), "role") for port in (master, replica)]
            except RuntimeError:  # one that changes its role cuts its connections
                return False
            return said[0].startswith("slave") and said[1].startswith("master")

        await until(changed_places)

        async def sent() -> bool:
            try:
                await driver.send(queue, [out("after")])
            except BatchError:
                return False
            return True

        await until(sent, 60)
        assert ids(await receiving) == ["after"]
        assert events.kinds[0] == "Disconnected"
        assert int(server.admin("redis-cli", "-p", str(replica), "xlen", queue.name)) >= 1


async def test_a_master_that_no_sentinel_knows(server: Broker) -> None:
    async with another(server) as master, sentinel(server, master) as watching:
        with pytest.raises(ConnectionLost, match="knows no master 'other'"):
            async with opened(f"redis+sentinel://127.0.0.1:{watching}/other"):
                pass


# --- cluster --------------------------------------------------------------------------------------------


@pytest_asyncio.fixture
async def cluster(server: Broker) -> AsyncIterator[list[int]]:
    """The ports of three nodes."""
    async with AsyncExitStack() as stack:
        options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--appendonly", "yes"]
        ports = [await stack.enter_async_context(another(server, *options)) for _ in range(3)]
        nodes = [f"127.0.0.1:{port}" for port in ports]
        server.admin("redis-cli", "--cluster", "create", *nodes, "--cluster-yes")

        def is_ok() -> bool:
            states = [server.admin("redis-cli", "-p", str(port), "cluster", "info") for port in ports]
            return all("cluster_state:ok" in state for state in states)

        await until(is_ok)
        yield ports


def spread(cluster: list[int], rest: str = "") -> str:
    return f"redis+cluster://127.0.0.1:1,127.0.0.1:{cluster[0]}{rest}"


async def test_queues_and_groups_of_a_cluster(cluster: list[int], name: Name) -> None:
    bus, got, count = Bus(spread(cluster)), list[str](), 12
    for number in range(count):

        @bus.consumer(name(f"orders.q{number}"))
        async def handle(text: str) -> None:
            got.append(text)

    @bus.consumer(Queue(name("ordered"), ordering="key"))
    async def in_order(text: str) -> None:
        got.append(text)

    @bus.subscriber(name("user.*"), group=name("group"))
    async def hear(message: Message[str]) -> None:
        got.append(message.data)

    @bus.subscriber(name("user.created"))
    async def listen(text: str) -> None:
        got.append(text)

    async with bus, bus.consuming():
        assert any("one slot" in note for note in bus.driver.capabilities.notes)
        for number in range(count):
            await bus.producer(name(f"orders.q{number}")).send(f"{number}")
            await bus.producer(name(f"orders.q{number}")).send(f"{number} later", delay=0.3)
        await bus.producer(Queue(name("ordered"), ordering="key")).send("ordered", key="k")
        await bus.publisher(name("user.created")).publish("created")
        await until(lambda: len(got) == 2 * count + 3)
        assert (await bus.depth(name("orders.q1"))).ready == 0
    wanted = [*map(str, range(count)), *[f"{number} later" for number in range(count)]]
    assert sorted(got) == sorted([*wanted, "ordered", "created", "created"])


async def node_id(port: int) -> str:
    async with plain(f"redis://127.0.0.1:{port}") as client:
        found: bytes = await client.execute_command("CLUSTER", "MYID")
    return found.decode()


async def test_slots_that_move_are_followed(server: Broker, cluster: list[int], name: Name) -> None:
    queues = [Queue(name(f"orders.q{number}")) for number in range(8)]
    async with opened(spread(cluster)) as driver, opened(spread(cluster)) as sender:
        await driver.declare(Topology(create=tuple(queues)))
        subscriptions = [await driver.subscribe(queue, prefetch=10, notify=Events()) for queue in queues]
        for queue, subscription in zip(queues, subscriptions, strict=True):
            await sender.send(queue, [out("before")])
            await subscription.settle(await take(subscription, 1), Outcome.ACK)
        receiving = [asyncio.ensure_future(take(each, 1, 60)) for each in subscriptions]
        first, target = [await node_id(port) for port in cluster[:2]]
        await asyncio.to_thread(
            server.admin, "redis-cli", "--cluster", "reshard", f"127.0.0.1:{cluster[0]}", "--cluster-from", first,
            "--cluster-to", target, "--cluster-slots", "5000", "--cluster-yes",
        )  # fmt: skip
        for queue in queues:
            await sender.send(queue, [out("after")])
        for got in await asyncio.gather(*receiving):
            assert ids(got) == ["after"]


async def test_a_store_on_a_cluster(cluster: list[int], name: Name) -> None:
    store = connect_store(Url(spread(cluster)), SystemClock())
    await store.open()
    names = [name(f"k{number}") for number in range(20)]
    claims = await store.claim(names, "a", 60)
    held = [Held(key, "a", claim.fence) for key, claim in zip(names, claims, strict=True) if isinstance(claim, New)]
    assert await store.complete(held, 60) == [True] * 20
    await store.close()
