"""The log model: queues, topics and what is sent to a group alone are logs that groups read."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from heapq import heappop, heappush

from unibus.driver import Address, Clock, Delivery, Depth, Outbound, Queue, Source, Topic, TopicSubscription
from unibus.errors import BatchError, ConfigurationError
from unibus.memory.alarm import NEVER, Alarm
from unibus.memory.broker import physical_name
from unibus.memory.guard import check_address, check_send, not_found, too_large
from unibus.memory.log import Kind, Log, Partition
from unibus.memory.log_browse import browse_partitions
from unibus.memory.log_group import Group
from unibus.memory.log_subscription import LogSubscription
from unibus.memory.options import Options
from unibus.memory.subscription import Notify
from unibus.memory.topology import check_partitions, check_patterns, check_same


class LogBroker:
    """Logs and the groups that read them. Delayed messages wait here and are appended when due."""

    def __init__(self, options: Options, clock: Clock) -> None:
        self._options = options
        self._clock = clock
        self._logs: dict[str, Log] = {}
        self._groups: dict[str, Group] = {}
        self._ephemeral: dict[Group, TopicSubscription] = {}
        self._delayed: list[tuple[float, int, Log, Outbound, float]] = []
        self._ties = 0
        self._alarm = Alarm(clock, self._ring)

    def declare(self, address: Source | Topic) -> None:
        check_address(self._options, address)
        if isinstance(address, Topic):
            check_partitions(address, len(self._topic(address.name, address.partitions).partitions))
        elif isinstance(address, Queue):
            self._declare_queue(address)
        elif address.group is not None:
            self._declare_group(address)

    def verify(self, address: Source | Topic) -> None:
        check_address(self._options, address)
        if isinstance(address, Topic):
            log = self._logs.get(address.name)
            if log is not None:
                _check_kind(log, "topic")
                check_partitions(address, len(log.partitions))
        elif isinstance(address, Queue) or address.group is not None:
            group = self._group(address)
            check_same(address, group.ordering, len(group.own.partitions) if group.own else None)
            if isinstance(address, TopicSubscription):
                check_patterns(address, group.subscription)

    def send(self, address: Address, messages: Sequence[Outbound]) -> None:
        check_send(self._options, address, messages)
        errors = too_large(self._options, messages)
        good = [message for n, message in enumerate(messages) if n not in errors] if errors else messages
        if isinstance(address, Topic):
            self._publish(address, good)
        else:
            group = self._groups.get(physical_name(address))
            if group is None or group.own is None:
                raise BatchError(dict.fromkeys(range(len(messages)), not_found(address)), len(messages))
            self._append(group.own, good)
        if errors:
            raise BatchError(errors, len(messages))

    def subscribe(self, source: Source, prefetch: int, notify: Notify) -> LogSubscription:
        check_address(self._options, source)
        if isinstance(source, TopicSubscription) and source.group is None:
            return self._subscribe_ephemeral(source, prefetch, notify)
        group = self._group(source)
        check_same(source, group.ordering, len(group.own.partitions) if group.own else None)
        return LogSubscription(source, group, prefetch, notify, self._clock, self._options)

    def depth(self, source: Source) -> Depth:
        return self._group(source).depth()

    def browse(self, source: Source, after: str | None, limit: int) -> tuple[list[Delivery], str | None]:
        places: list[tuple[Partition, int]]
        if isinstance(source, TopicSubscription) and source.group is None:
            logs = sorted(self._topics(), key=lambda log: log.name)
            places = [(p, p.base) for log in logs if source.matches(log.name) for p in log.partitions]
        else:
            places = [(cursor.partition, cursor.committed) for cursor in self._group(source).cursors]
        return browse_partitions(places, source.name, after, limit)

    def close(self) -> None:
        self._alarm.stop()
        for group in [*self._groups.values(), *self._ephemeral]:
            group.close()

    def _declare_queue(self, queue: Queue) -> None:
        name = physical_name(queue)
        group = self._groups.get(name)
        if group is None:
            log = self._make(name, "queue", queue.partitions)
            self._groups[name] = self._new_group(queue, log)
        else:
            check_same(queue, group.ordering, len(group.own.partitions) if group.own else None)

    def _declare_group(self, source: TopicSubscription) -> None:
        group = self._groups.get(source.name)
        if group is None:
            log = self._make(source.name, "group", None)
            group = self._groups[source.name] = self._new_group(source, log)
        else:
            check_same(source, group.ordering, None)
        group.follow(source, self._topics())

    def _subscribe_ephemeral(self, source: TopicSubscription, prefetch: int, notify: Notify) -> LogSubscription:
        group = self._new_group(source, None)
        self._ephemeral[group] = source
        group.follow(source, self._topics())
        subscription = LogSubscription(source, group, prefetch, notify, self._clock, self._options)
        subscription.on_end = partial(self._drop, group)
        return subscription

    def _new_group(self, source: Source, own: Log | None) -> Group:
        return Group(source.ordering, own, self._clock, self._options.revoke_timeout)

    def _group(self, source: Source) -> Group:
        if isinstance(source, TopicSubscription) and source.group is None:
            for group, live in self._ephemeral.items():
                if live == source:
                    return group
        elif (found := self._groups.get(physical_name(source))) is not None:
            return found
        raise not_found(source)

    def _topics(self) -> list[Log]:
        return [log for log in self._logs.values() if log.kind == "topic"]

    def _topic(self, name: str, partitions: int | None) -> Log:
        log = self._logs.get(name)
        if log is not None:
            return _check_kind(log, "topic")
        log = self._make(name, "topic", partitions)
        for group in [*self._groups.values(), *self._ephemeral]:
            group.appeared(log)
        return log

    def _make(self, name: str, kind: Kind, partitions: int | None) -> Log:
        if name in self._logs:
            _check_kind(self._logs[name], kind)
        keep = self._options.retention if kind == "topic" else 0
        log = self._logs[name] = Log(name, kind, partitions or self._options.partitions, keep)
        return log

    def _publish(self, address: Topic, messages: Sequence[Outbound]) -> None:
        shares: dict[str, list[Outbound]] = {}
        for message in messages:
            shares.setdefault(message.topic or address.name, []).append(message)
        # All topics exist before the first message is stored: an error leaves nothing half done.
        logs = {name: self._topic(name, address.partitions if name == address.name else None) for name in shares}
        for name, share in shares.items():
            self._append(logs[name], share, name)

    def _append(self, log: Log, messages: Sequence[Outbound], topic: str | None = None) -> None:
        sent, now = self._clock.now(), self._clock.monotonic()
        for message in messages:
            if message.delay > 0:
                self._ties += 1  # what is due at one time keeps the order of sending
                heappush(self._delayed, (now + message.delay, self._ties, log, message, sent))
                log.delayed += 1
        log.append([(message, sent, now, message.topic or topic) for message in messages if message.delay <= 0])
        self._rearm()

    def _ring(self) -> None:
        now = self._clock.monotonic()
        while self._delayed and self._delayed[0][0] <= now:
            _, _, log, message, sent = heappop(self._delayed)
            log.delayed -= 1
            log.append([(message, sent, now, message.topic)])
        self._rearm()

    def _rearm(self) -> None:
        self._alarm.set(self._delayed[0][0] if self._delayed else NEVER)

    def _drop(self, group: Group) -> None:
        del self._ephemeral[group]
        group.close()


def _check_kind(log: Log, kind: Kind) -> Log:
    if log.kind != kind:
        raise ConfigurationError(
            f"{log.name!r} is a {log.kind} and cannot be a {kind} too: both would be the same log; "
            "choose another name for one of them"
        )
    return log
