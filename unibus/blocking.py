"""A bus for programs without a loop: one loop thread a process, started on first use, so after any fork."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import AsyncIterable, Callable, Coroutine, Iterable, Mapping
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from unibus.driver import Depth

if TYPE_CHECKING:
    from unibus.address import Queue, Topic, TopicSubscription
    from unibus.bus import Bus
    from unibus.producer import Producer, Publisher

T = TypeVar("T")
R = TypeVar("R")


class LoopThread:
    """The process's loop thread. A child made by fork starts one of its own."""

    _lock = threading.Lock()
    _current: LoopThread | None = None

    def __init__(self) -> None:
        self._process = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="unibus loop", daemon=True)
        self._thread.start()

    @classmethod
    def of_this_process(cls) -> LoopThread:
        with cls._lock:
            if cls._current is None or cls._current._process != os.getpid():
                cls._current = cls()
            return cls._current

    def wait_for(self, work: Coroutine[Any, Any, R]) -> R:
        """Run it on the loop thread, from any other thread."""
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError("a blocking call on the loop's own thread would wait for itself; await the Bus instead")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


class BlockingBus:
    """`with bus.blocking() as b: b.producer("orders").send(order)`. Thread-safe; sends only.

    Every call returns once the broker has confirmed. Opened by `with`, or by the first call; then
    it stays open until the process exits, where it is flushed.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._lock = threading.Lock()
        self._opened_in: int | None = None

    def __enter__(self) -> BlockingBus:
        self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> LoopThread:
        thread = LoopThread.of_this_process()
        with self._lock:
            if self._opened_in != os.getpid():
                self._bus.forget_parent_process()
                thread.wait_for(self._bus.__aenter__())
                self._opened_in = os.getpid()
                atexit.register(self.close)
        return thread

    def close(self) -> None:
        """Flush and disconnect. Idempotent; the next call opens it again."""
        with self._lock:
            if self._opened_in == os.getpid():
                self._opened_in = None
                atexit.unregister(self.close)
                LoopThread.of_this_process().wait_for(self._bus.__aexit__(None, None, None))

    def wait_for(self, work: Callable[[], Coroutine[Any, Any, R]]) -> R:
        return self._open().wait_for(work())

    @overload
    def producer(self, queue: str | Queue, type: type[T], *, delay: float = 0.0) -> BlockingProducer[T]: ...
    @overload
    def producer(self, queue: str | Queue, type: None = None, *, delay: float = 0.0) -> BlockingProducer[Any]: ...
    def producer(self, queue: str | Queue, type: Any = None, *, delay: float = 0.0) -> BlockingProducer[Any]:  # noqa: A002
        """As `Bus.producer`."""
        return BlockingProducer(self, self._bus.producer(queue, type, delay=delay))

    @overload
    def publisher(self, topic: str | Topic, type: type[T]) -> BlockingPublisher[T]: ...
    @overload
    def publisher(self, topic: str | Topic, type: None = None) -> BlockingPublisher[Any]: ...
    def publisher(self, topic: str | Topic, type: Any = None) -> BlockingPublisher[Any]:  # noqa: A002
        """As `Bus.publisher`."""
        return BlockingPublisher(self, self._bus.publisher(topic, type))

    def depth(self, source: str | Queue | TopicSubscription) -> Depth:
        """As `Bus.depth`."""
        return self.wait_for(lambda: self._bus.depth(source))


class BlockingProducer(Generic[T]):
    """As Producer, without await."""

    def __init__(self, bus: BlockingBus, producer: Producer[T]) -> None:
        self._bus = bus
        self._producer = producer

    def send(
        self,
        data: T,
        *,
        key: str | None = None,
        delay: float | timedelta = 0.0,
        headers: Mapping[str, str] | None = None,
        id: str | None = None,  # noqa: A002
        correlation_id: str | None = None,
        priority: int | None = None,
    ) -> str:
        return self._bus.wait_for(
            lambda: self._producer.send(
                data, key=key, delay=delay, headers=headers, id=id, correlation_id=correlation_id, priority=priority
            )
        )

    def send_many(
        self,
        items: Iterable[T] | AsyncIterable[T],
        *,
        key: Callable[[T], str | None] | None = None,
        delay: float | timedelta = 0.0,
        headers: Mapping[str, str] | None = None,
    ) -> int:
        return self._bus.wait_for(lambda: self._producer.send_many(items, key=key, delay=delay, headers=headers))


class BlockingPublisher(Generic[T]):
    """As Publisher, without await."""

    def __init__(self, bus: BlockingBus, publisher: Publisher[T]) -> None:
        self._bus = bus
        self._publisher = publisher

    def publish(
        self,
        data: T,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        id: str | None = None,  # noqa: A002
        correlation_id: str | None = None,
    ) -> str:
        return self._bus.wait_for(
            lambda: self._publisher.publish(data, key=key, headers=headers, id=id, correlation_id=correlation_id)
        )

    def publish_many(
        self,
        items: Iterable[T] | AsyncIterable[T],
        *,
        key: Callable[[T], str | None] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> int:
        return self._bus.wait_for(lambda: self._publisher.publish_many(items, key=key, headers=headers))
