"""The queue model: every group and every subscriber has a queue of its own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from unibus.driver import (
    Address,
    Clock,
    Delivery,
    Depth,
    Outbound,
    Queue,
    Source,
    Topic,
    TopicSubscription,
)
from unibus.errors import BatchError
from unibus.memory.broker import physical_name
from unibus.memory.guard import check_address, check_send, not_found, too_large
from unibus.memory.options import Options
from unibus.memory.queue import MessageQueue
from unibus.memory.queue_subscription import QueueSubscription
from unibus.memory.subscription import Notify
from unibus.memory.topology import check_patterns, check_same

_ROUTES = 4096
"""So many topics have their targets remembered."""


class QueueBroker:
    """Queues by name, the patterns of groups, and the queues of ephemeral subscribers."""

    def __init__(self, options: Options, clock: Clock) -> None:
        self._options = options
        self._clock = clock
        self._queues: dict[str, MessageQueue] = {}
        self._groups: dict[str, TopicSubscription] = {}
        self._ephemeral: dict[MessageQueue, TopicSubscription] = {}
        self._routes: dict[str, tuple[MessageQueue, ...]] = {}

    def declare(self, address: Source | Topic) -> None:
        check_address(self._options, address)
        if isinstance(address, Topic) or (isinstance(address, TopicSubscription) and address.group is None):
            return  # a topic is there by its first use, an ephemeral subscription by being connected
        name = physical_name(address)
        partitions = address.partitions if isinstance(address, Queue) else None
        queue = self._queues.get(name)
        if queue is None:
            self._queues[name] = MessageQueue(name, address.ordering, partitions, self._clock)
        else:
            check_same(address, queue.ordering, queue.partitions)
            queue.partitions = queue.partitions or partitions
        if isinstance(address, TopicSubscription):
            self._groups[name] = address
            self._routes.clear()

    def verify(self, address: Source | Topic) -> None:
        check_address(self._options, address)
        if isinstance(address, Topic) or (isinstance(address, TopicSubscription) and address.group is None):
            return
        queue = self._queue(address)
        check_same(address, queue.ordering, queue.partitions)
        if isinstance(address, TopicSubscription):
            check_patterns(address, self._groups.get(queue.name))

    def send(self, address: Address, messages: Sequence[Outbound]) -> None:
        check_send(self._options, address, messages)
        errors = too_large(self._options, messages)
        good = [message for n, message in enumerate(messages) if n not in errors] if errors else messages
        if isinstance(address, Topic):
            self._publish(address.name, good)
        else:
            queue = self._queues.get(physical_name(address))
            if queue is None:
                raise BatchError(dict.fromkeys(range(len(messages)), not_found(address)), len(messages))
            queue.put(good)
        if errors:
            raise BatchError(errors, len(messages))

    def subscribe(self, source: Source, prefetch: int, notify: Notify) -> QueueSubscription:
        check_address(self._options, source)
        if isinstance(source, TopicSubscription) and source.group is None:
            queue = MessageQueue(source.name, source.ordering, None, self._clock)
            self._ephemeral[queue] = source
            self._routes.clear()
            subscription = QueueSubscription(source, queue, prefetch, notify, self._clock, self._options)
            subscription.on_end = partial(self._drop, queue)
            return subscription
        queue = self._queue(source)
        check_same(source, queue.ordering, queue.partitions)
        return QueueSubscription(source, queue, prefetch, notify, self._clock, self._options)

    def depth(self, source: Source) -> Depth:
        return self._queue(source).depth()

    def browse(self, source: Source, after: str | None, limit: int) -> tuple[list[Delivery], str | None]:
        counted = self._options.count == "on"
        return self._queue(source).browse(-1 if after is None else int(after), limit, counted)

    def close(self) -> None:
        for queue in [*self._queues.values(), *self._ephemeral]:
            queue.close()

    def _queue(self, source: Source) -> MessageQueue:
        if isinstance(source, TopicSubscription) and source.group is None:
            for queue, live in self._ephemeral.items():
                if live == source:
                    return queue
        elif (found := self._queues.get(physical_name(source))) is not None:
            return found
        raise not_found(source)

    def _publish(self, name: str, messages: Sequence[Outbound]) -> None:
        topics: dict[str, list[Outbound]] = {}
        for message in messages:
            topics.setdefault(message.topic or name, []).append(message)
        if len(topics) == 1:
            for queue in self._targets(next(iter(topics))):
                queue.put(messages, name)
            return
        # One call to each queue, so that what it gets of several topics keeps the order of sending.
        shares: dict[MessageQueue, list[Outbound]] = {}
        for message in messages:
            for queue in self._targets(message.topic or name):
                shares.setdefault(queue, []).append(message)
        for queue, share in shares.items():
            queue.put(share, name)

    def _targets(self, topic: str) -> tuple[MessageQueue, ...]:
        targets = self._routes.get(topic)
        if targets is None:
            if len(self._routes) >= _ROUTES:
                self._routes.clear()
            groups = [self._queues[name] for name, group in self._groups.items() if group.matches(topic)]
            ephemeral = [queue for queue, source in self._ephemeral.items() if source.matches(topic)]
            targets = self._routes[topic] = (*groups, *ephemeral)
        return targets

    def _drop(self, queue: MessageQueue) -> None:
        del self._ephemeral[queue]
        self._routes.clear()
        queue.close()
