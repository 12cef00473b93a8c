"""What is ready in a queue that keeps the order of each key."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import heappop, heappush

from unibus.memory.fifo import Entry, Fifo, H, Holder


class _Key:
    """The messages of one key. `back` are those given back, each with the time before which it waits."""

    __slots__ = ("back", "fresh", "holder", "in_flight", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.fresh: deque[Entry] = deque()
        self.back: list[tuple[int, float, Entry]] = []
        self.holder: Holder | None = None
        self.in_flight = 0

    def first(self, now: float) -> int | None:
        """The place of the message that comes next, unless there is none or it waits for its time."""
        if self.back:
            place, due, _ = self.back[0]
            return place if due <= now else None
        return self.fresh[0][0] if self.fresh else None

    def peek(self) -> Entry:
        return self.back[0][2] if self.back else self.fresh[0]

    def pop(self) -> Entry:
        return heappop(self.back)[2] if self.back else self.fresh.popleft()


class Keyed:
    """Messages of one key leave in order of sending, and only to the one who holds earlier ones.

    A heap has the first place of every key that nobody holds, and one heap each holder those of
    the keys that it holds. Items become stale when a key changes hands or its first message
    changes; they are dropped when they come up.
    """

    __slots__ = ("_held", "_keyless", "_keys", "_monotonic", "_open")

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._keys: dict[str, _Key] = {}
        self._open: list[tuple[int, str]] = []
        self._held: dict[Holder, list[tuple[int, str]]] = {}
        self._keyless = Fifo()

    def add(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            name = entry[4].key
            if name is None:
                self._keyless.add((entry,))
                continue
            key = self._keys.get(name)
            if key is None:
                key = self._keys[name] = _Key(name)
            key.fresh.append(entry)
            if len(key.fresh) == 1 and not key.back:
                self._offer(key, entry[3])

    def take(self, holder: Holder, limit: int) -> list[Entry]:
        now = self._monotonic()
        taken: list[Entry] = []
        while len(taken) < limit:
            own = self._held.get(holder, [])
            places = (
                (self._first(own, holder, now), own),
                (self._first(self._open, None, now), self._open),
                (self._keyless.first(), None),
            )
            place, heap = min(places, key=lambda pair: _NOWHERE if pair[0] is None else pair[0])
            if place is None:
                break
            if heap is None:
                taken += self._keyless.take(holder, 1)
                continue
            key = self._keys[heappop(heap)[1]]
            taken.append(key.pop())
            key.holder = holder
            key.in_flight += 1
            self._offer(key, now)
        return taken

    def done(self, holder: Holder, entries: Sequence[Entry]) -> None:
        for entry in entries:
            name = entry[4].key
            if name is not None:
                self._release(self._keys[name])

    def give_back(self, holder: Holder, entries: Sequence[Entry]) -> None:
        self._put_back(entries, 0.0)

    def hold_back(self, holder: Holder, entries: Sequence[Entry], due: float) -> None:
        self._put_back([entry for entry in entries if entry[4].key is not None], due)

    def resume(self, entry: Entry) -> None:
        name = entry[4].key
        if name is None:
            self._keyless.resume(entry)
        elif (key := self._keys.get(name)) is not None:  # it may be taken and settled by now
            self._offer(key, self._monotonic())

    def able(self, waiting: Iterable[H]) -> list[H]:
        now = self._monotonic()
        anybody = self._keyless.first() is not None or self._first(self._open, None, now) is not None
        return [
            holder for holder in waiting if anybody or self._first(self._held.get(holder, []), holder, now) is not None
        ]

    def forget(self, holder: Holder) -> None:
        self._held.pop(holder, None)

    def ready(self) -> int:
        now = self._monotonic()
        keyed = sum(len(key.fresh) + sum(due <= now for _, due, _ in key.back) for key in self._keys.values())
        return keyed + self._keyless.ready()

    def oldest(self) -> Entry | None:
        now = self._monotonic()
        firsts = [key.peek() for key in self._keys.values() if key.first(now) is not None]
        keyless = self._keyless.oldest()
        return min(firsts if keyless is None else [*firsts, keyless], default=None)

    def __iter__(self) -> Iterator[Entry]:
        now = self._monotonic()
        entries = list(self._keyless)
        for key in self._keys.values():
            entries += key.fresh
            entries += [entry for _, due, entry in key.back if due <= now]
        return iter(sorted(entries))

    def _put_back(self, entries: Sequence[Entry], due: float) -> None:
        # First all of them, then the offers: the first message of a key is known only then.
        keys = []
        now = self._monotonic()
        for entry in entries:
            name = entry[4].key
            if name is None:
                self._keyless.resume(entry)
            else:
                key = self._keys[name]
                heappush(key.back, (entry[0], due, entry))
                keys.append(key)
        for key in keys:
            self._release(key)
            self._offer(key, now)

    def _release(self, key: _Key) -> None:
        key.in_flight -= 1
        if key.in_flight:
            return
        key.holder = None
        if key.back or key.fresh:
            self._offer(key, self._monotonic())
        else:
            del self._keys[key.name]

    def _offer(self, key: _Key, now: float) -> None:
        place = key.first(now)
        if place is not None:
            heap = self._open if key.holder is None else self._held.setdefault(key.holder, [])
            heappush(heap, (place, key.name))

    def _first(self, heap: list[tuple[int, str]], holder: Holder | None, now: float) -> int | None:
        while heap:
            place, name = heap[0]
            key = self._keys.get(name)
            if key is not None and key.holder is holder and key.first(now) == place:
                return place
            heappop(heap)
        return None


_NOWHERE = float("inf")
