"""What the driver asks of the cluster beside records: topics, offsets, identities of producers.

By requests of the client library's protocol, on one connection a node. Never by its own look-ups of topics: those make
a topic that does not exist, where the cluster is configured so.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from aiokafka import errors as foreign
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.conn import create_conn
from aiokafka.protocol.admin import CreateTopicsRequest, DescribeConfigsRequest
from aiokafka.protocol.commit import OffsetCommitRequest, OffsetFetchRequest
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.group import LeaveGroupRequest
from aiokafka.protocol.offset import OffsetRequest
from aiokafka.protocol.transaction import InitProducerIdRequest
from aiokafka.structs import TopicPartition

from unibus.driver import Clock
from unibus.errors import AccessDenied, ConnectionLost, DriverError
from unibus_kafka.connections import shun_ended
from unibus_kafka.endpoint import Endpoint
from unibus_kafka.failures import FOREIGN, translate, translated, words
from unibus_kafka.metadata import UNKNOWN, TopicsRequest

T = TypeVar("T")

BACKOFF = 0.1
"""Seconds between two attempts."""
BOOTSTRAP = 5.0
"""Seconds for the first contact, for each server that the URL names; 25 at most."""
_EARLIEST, _LATEST = -2, -1
_TOPIC, _BROKER = 2, 4
"""Kinds of resources that have a configuration."""


@dataclass(frozen=True, slots=True)
class Found:
    """A topic that exists. led: every partition has a broker that leads it, so that it can be written. identity: of
    this topic, and of no other that had or will have its name."""

    partitions: int
    replicas: int
    led: bool
    identity: bytes


@dataclass(frozen=True, slots=True)
class Wanted:
    """A topic to be made. replicas -1: the cluster's default."""

    partitions: int
    replicas: int
    configuration: Mapping[str, str]


class Cluster:
    def __init__(self, endpoint: Endpoint, clock: Clock) -> None:
        self._endpoint = endpoint
        self._clock = clock
        self._timeout = endpoint.options.timeout
        self.client: Any = None
        """The library's client, which the producer shares; it knows who leads which partition."""

    async def open(self) -> None:
        """Raises ConnectionLost or AccessDenied that says why."""
        servers = self._endpoint.servers
        self.client = AIOKafkaClient(
            bootstrap_servers=servers,
            client_id="unibus",
            request_timeout_ms=int(self._timeout * 1000),
            retry_backoff_ms=int(BACKOFF * 1000),
            **self._endpoint.security,
        )
        shun_ended(self.client)
        try:
            # Something else that listens there would keep the library waiting for most of a minute.
            async with asyncio.timeout(min(BOOTSTRAP * len(servers), 25.0)):
                await self.client.bootstrap()
        except (*FOREIGN, asyncio.CancelledError) as error:
            with translated(f"connecting to {self._endpoint.url}"):
                if isinstance(error, asyncio.CancelledError):
                    raise
            raise await self._diagnosis(error) from error
        except (ValueError, LookupError, AssertionError) as error:  # which the library raises when it cannot follow
            raise AccessDenied(
                f"connecting to {self._endpoint.url}: the server's part of the login is wrong ({words(error)}); make "
                "sure that it is the server that you mean, and nobody else in its place"
            ) from error
        await self._check_advertised()

    async def close(self) -> None:
        if self.client is not None:
            await self.client.close()

    @asynccontextmanager
    async def beside(self) -> AsyncIterator[Cluster]:
        """The same by connections of its own, for a request that holds up all others of its connection."""
        other = Cluster(self._endpoint, self._clock)
        try:
            await other.open()
            yield other
        finally:
            await other.close()

    # --- topics ---------------------------------------------------------------------------------------

    async def topics(
        self, names: Collection[str] | None = None, denied: dict[str, DriverError] | None = None
    ) -> dict[str, Found]:
        """Those of the names that exist; None: all that we may see. denied: takes the errors of single topics, which
        are raised otherwise."""
        request = TopicsRequest(None if names is None else list(names))

        async def ask() -> Any:
            return await self._ask(None, request)

        answer = await self._repeated(ask, "asking for topics")
        found = {}
        for topic in answer.to_object()["topics"]:
            error = foreign.for_code(topic["error_code"])
            if error in (foreign.UnknownTopicOrPartitionError, foreign.InvalidTopicError):
                continue
            if error is not foreign.NoError and not error.retriable:
                refused = translate(error(), f"looking for {topic['topic']!r}")
                if denied is None:
                    raise refused
                denied[topic["topic"]] = refused
                continue
            parts = topic["partitions"]
            led = bool(parts) and all(part["leader"] >= 0 for part in parts)
            replicas = min((len(part["replicas"]) for part in parts), default=0)
            found[topic["topic"]] = Found(len(parts), replicas, led, topic.get("topic_id", UNKNOWN))
        return found

    async def create(self, wanted: Mapping[str, Wanted]) -> list[str]:
        """Those that we have made; what is there already is no error."""
        request = CreateTopicsRequest(
            create_topic_requests=[
                (name, one.partitions, one.replicas, [], list(one.configuration.items()))
                for name, one in wanted.items()
            ],
            timeout=int(self._timeout * 1000),
            validate_only=False,
        )

        async def ask() -> Any:
            controller = self.client.cluster.controller
            answer = await self._ask(controller.nodeId if controller is not None else None, request)
            for _, code, *_ in answer.topic_errors:
                if foreign.for_code(code) is foreign.NotControllerError:
                    await self._refreshed()
                    raise foreign.NotControllerError
            return answer

        answer = await self._repeated(ask, f"creating {', '.join(wanted)}")
        made = []
        for name, code, *said in answer.topic_errors:
            error = foreign.for_code(code)
            if error is foreign.NoError:
                made.append(name)
            elif error is not foreign.TopicAlreadyExistsError:
                raise translate(error(*said), f"creating {name!r} with {wanted[name]}")
        return made

    async def configured(self, name: str, topics: Iterable[str]) -> dict[str, str]:
        """One value of the configuration of topics; of those alone that we may see."""
        return await self._configured(name, [(_TOPIC, topic, [name]) for topic in topics], None)

    async def configured_default(self, name: str) -> str | None:
        """One value of the configuration of a broker, if we may see it."""
        node = self.client.get_random_node()
        found = await self._configured(name, [(_BROKER, str(node), [name])], node)
        return found.get(str(node))

    async def _configured(self, name: str, resources: list[Any], node: int | None) -> dict[str, str]:
        answer = await self._repeated(lambda: self._ask(node, DescribeConfigsRequest(resources)), f"asking for {name}")
        return {
            resource: entry[1]
            for code, _, _, resource, entries in answer.resources
            if not code
            for entry in entries
            if entry[0] == name and entry[1] is not None
        }

    async def check_readable(self, topic: str) -> None:
        """Raises AccessDenied: the library's consumer would join, and never say that it may not read."""
        nowhere = -1  # so that nothing is read

        async def ask() -> None:
            answer = await self._ask(None, FetchRequest(0, 0, 1, 0, [(topic, [(0, nowhere, 1)])]))
            for _, parts in answer.topics:
                for _, code, *_ in parts:
                    if foreign.for_code(code) is foreign.TopicAuthorizationFailedError:
                        raise foreign.TopicAuthorizationFailedError

        await self._repeated(ask, f"reading {topic!r}")

    # --- offsets --------------------------------------------------------------------------------------

    async def offsets(
        self, partitions: Collection[TopicPartition], which: Literal["first", "end"]
    ) -> dict[TopicPartition, int]:
        """Where the logs begin, or end, by those who lead them."""
        mark = _EARLIEST if which == "first" else _LATEST

        async def ask() -> dict[TopicPartition, int]:
            by_node: dict[int, dict[str, list[tuple[int, int]]]] = {}
            for tp in partitions:
                leader = self.client.cluster.leader_for_partition(tp)
                if leader is None or leader < 0:
                    await self._refreshed()
                    raise foreign.LeaderNotAvailableError
                by_node.setdefault(leader, {}).setdefault(tp.topic, []).append((tp.partition, mark))
            found: dict[TopicPartition, int] = {}
            for node, topics in by_node.items():
                answer = await self._ask(node, OffsetRequest(-1, 0, list(topics.items())))
                for topic, parts in answer.topics:
                    for partition, code, *_, offset in parts:
                        await self._check(code)
                        found[TopicPartition(topic, partition)] = offset
            return found

        return await self._repeated(ask, "asking for offsets")

    async def committed(
        self, group: str, partitions: Iterable[TopicPartition] | None = None
    ) -> dict[TopicPartition, tuple[int, str]]:
        """What a group has committed: the next offset, and the note beside it."""
        by_topic: dict[str, list[int]] | None = None
        if partitions is not None:
            by_topic = {}
            for tp in partitions:
                by_topic.setdefault(tp.topic, []).append(tp.partition)
            if not by_topic:
                return {}
        request = OffsetFetchRequest(group, None if by_topic is None else list(by_topic.items()))

        async def ask() -> dict[TopicPartition, tuple[int, str]]:
            answer = await self.ask_coordinator(group, request)
            await self._check(answer.error_code)
            found = {}
            for topic, parts in answer.topics:
                for partition, offset, note, code in parts:
                    await self._check(code)
                    if offset >= 0:
                        found[TopicPartition(topic, partition)] = offset, note or ""
            return found

        return await self._repeated(ask, f"asking for the offsets of {group}")

    async def commit(self, group: str, offsets: Mapping[TopicPartition, tuple[int, str]]) -> None:
        """For a group without members."""
        request = commit_request(group, offsets, -1, "")

        async def ask() -> None:
            answer = await self.ask_coordinator(group, request)
            for _, parts in answer.topics:
                for _, code in parts:
                    await self._check(code)

        await self._repeated(ask, f"committing for {group}")

    async def ask_coordinator(self, group: str, request: Any) -> Any:
        """Of whoever keeps the group's members and offsets. Not repeated; raises the library's errors."""
        return await self._ask(await self._coordinator(group), request)

    async def put_out(self, group: str, member: str) -> None:
        """For tests."""

        async def ask() -> None:
            await self.ask_coordinator(group, LeaveGroupRequest(group, member))

        await self._repeated(ask, f"leaving {group}")

    async def _coordinator(self, group: str) -> int:
        answer = await self._ask(None, FindCoordinatorRequest(group, 0))
        await self._check(answer.error_code)
        return int(answer.coordinator_id)

    # --- producers ------------------------------------------------------------------------------------

    async def identity(self) -> tuple[int, int]:
        """A new producer's id and epoch. Not repeated: whoever asks has a deadline."""
        answer = await self._ask(None, InitProducerIdRequest(None, 0))
        await self._check(answer.error_code)
        return answer.producer_id, answer.producer_epoch

    # --- inside ---------------------------------------------------------------------------------------

    async def _ask(self, node: int | None, request: Any) -> Any:
        if node is None:
            node = self.client.get_random_node()
        # Apart from records: the broker answers one request of a connection after the other.
        return await self.client.send(node, request, group=ConnectionGroup.COORDINATION)

    async def _check(self, code: int) -> None:
        """Raises what the code means, and learns what it says of our view of the cluster."""
        if not code:
            return
        error = foreign.for_code(code)
        if getattr(error, "invalid_metadata", False):
            await self._refreshed()
        raise error

    async def _refreshed(self) -> None:
        async with asyncio.timeout(self._timeout):
            await self.client.force_metadata_update()

    async def _repeated(self, ask: Callable[[], Awaitable[T]], doing: str) -> T:
        """The answer, or the error that stays when time is up."""
        deadline = self._clock.monotonic() + self._timeout
        with translated(doing):
            while True:
                try:
                    async with asyncio.timeout(max(deadline - self._clock.monotonic(), 0.01)):
                        return await ask()
                except foreign.KafkaError as error:
                    if not error.retriable or self._clock.monotonic() + BACKOFF > deadline:
                        raise
                await self._clock.sleep(BACKOFF)

    async def _diagnosis(self, error: BaseException) -> Exception:
        """The library tells that no server answered as it should, and keeps to itself why."""
        doing = f"connecting to {self._endpoint.url}"
        host, _, port = self._endpoint.servers[0].rpartition(":")
        try:
            async with asyncio.timeout(5.0):
                connection = await create_conn(
                    host.strip("[]"), int(port), request_timeout_ms=4000, **self._endpoint.security
                )
        except FOREIGN as reason:
            found = translate(reason, doing)
            if isinstance(found, AccessDenied):
                return found
            if isinstance(reason, ssl.SSLCertVerificationError):
                return ConnectionLost(
                    f"{doing}: the server's certificate is not to be trusted ({words(reason)}); say by cafile= who has "
                    "signed it, and name the host as it does"
                )
            return ConnectionLost(
                f"{doing}: nothing answers as Kafka does ({words(reason)}); check host, port, tls=, certfile= and sasl="
            )
        connection.close()
        return ConnectionLost(f"{doing}: {error}")

    async def _check_advertised(self) -> None:
        """What the servers say where they are, not what the URL says, is where all else goes."""
        nodes = self.client.cluster.brokers()
        if not nodes:  # a token that is refused is answered by a word in a language which the library does not read
            what = f"connecting to {self._endpoint.url}: the server names no broker"
            await self.close()
            if self._endpoint.options.tokenfile is not None:
                raise AccessDenied(f"{what}, since it does not take the token; check the one in tokenfile=")
            raise ConnectionLost(f"{what}; try again")
        deadline = self._clock.monotonic() + 3 * BOOTSTRAP
        for node in nodes:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(deadline - self._clock.monotonic(), BOOTSTRAP)):
                    if await self.client.ready(node.nodeId, group=ConnectionGroup.COORDINATION):
                        return
        shown = ", ".join(f"{node.host}:{node.port}" for node in nodes)
        await self.close()
        raise ConnectionLost(
            f"connecting to {self._endpoint.url}: the server answers, and says that it is to be reached at "
            f"{shown}, where nothing answers; set advertised.listeners to an address that this machine can reach"
        )


def commit_request(
    group: str, offsets: Mapping[TopicPartition, tuple[int, str]], generation: int, member: str
) -> OffsetCommitRequest:
    """offsets: the next of each partition, and a note beside it."""
    by_topic: dict[str, list[tuple[int, int, str]]] = {}
    for tp, (offset, note) in offsets.items():
        by_topic.setdefault(tp.topic, []).append((tp.partition, offset, note))
    return OffsetCommitRequest(group, generation, member, -1, list(by_topic.items()))
