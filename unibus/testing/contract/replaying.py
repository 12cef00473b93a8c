"""The tools for dead letters: looked at, replayed to whom they were of, once each; what is not meant stays."""

from __future__ import annotations

from typing import Any

from unibus.dead_letters.box import DeadLetters
from unibus.message import Message
from unibus.outcome import Reject
from unibus.testing.contract.cases import Cases
from unibus.testing.contract.ledger import difference, once
from unibus.testing.contract.needs import GROUPS, RELIABLE_QUEUES, RELIABLE_TOPICS, needs
from unibus.testing.harness import Harness


@needs(RELIABLE_QUEUES)
class Replaying(Cases):
    async def test_once_mended_dead_letters_are_replayed_and_handled_once(self, harness: Harness) -> None:
        bus, name, mended, got = harness.bus(name="shop"), harness.name("orders"), False, list[Message[Any]]()
        runs = list[int]()

        @bus.consumer(name)
        @once
        async def handle(message: Message[Any]) -> None:
            runs.append(message.data["id"])
            if not mended:
                raise Reject(f"order {message.data['id']} is broken")
            got.append(message)

        async with harness.running(bus):
            await bus.producer(name).send_many(
                [{"id": n} for n in range(12)], key=lambda order: f"k{order['id']}", headers={"a": "ü"}
            )
            box = bus.dead_letters(name)
            await _holds(harness, box, 12)
            letters = {letter.body: letter for letter in await harness.passing(box.browse("reason~is broken"))}
            assert letters.keys() == {b'{"id":%d}' % n for n in range(12)}, "the bytes as they were sent"
            letter = letters[b'{"id":7}']
            assert (letter.source, letter.attempts, letter.replays, letter.type) == (name, 1, 0, "dict")
            assert letter.record is not None
            assert letter.record.reason == "order 7 is broken"
            assert (letter.delivery.key, dict(letter.delivery.headers)) == ("k7", {"a": "ü"})
            await _holds(harness, box, 12)  # looked at, they are still there
            mended = True
            report = await harness.passing(box.replay(["source=" + name, 'text~"id":1']))
            assert (report.total, report.seen, report.done, report.unmatched) == (12, 12, 3, 9)
            await harness.until(lambda: len(got) >= 3, "those that are meant are handled")
            await _holds(harness, box, 9)
            left = {one.body: one.record for one in await harness.passing(box.browse())}
            assert left == {body: one.record for body, one in letters.items() if b":1" not in (body or b"")}
            report = await harness.passing(box.replay())
            assert (report.done, report.complete) == (9, True)
            await harness.until(lambda: len(got) >= 12, "all are handled")
            await _holds(harness, box, 0)
            await harness.silent()
        assert not difference([message.data["id"] for message in got], range(12))
        assert not difference(runs, [*range(12), *range(12)], twice=True)
        assert len(runs) == 24, "each ran once, and once more when it was replayed"
        for message in got:
            before = letters[message.body]
            assert (message.id, message.key, message.headers) == (before.id, f"k{message.data['id']}", {"a": "ü"})
            assert (message.attempt, message.dead_letter, message.source) == (1, None, "shop")

    @needs(GROUPS, RELIABLE_TOPICS)
    async def test_a_group_alone_gets_its_own_back_three_times_at_most(self, harness: Harness) -> None:
        bus, topic, group, runs, others = harness.bus(), harness.name("order.created"), harness.name("email"), [0], [0]

        @bus.subscriber(topic, group=group)
        @once
        async def mail(number: int) -> None:
            runs[0] += 1
            raise Reject("no")

        @bus.subscriber(topic, group=harness.name("audit"))
        async def audit(number: int) -> None:
            others[0] += 1

        async with harness.running(bus):
            await bus.publisher(topic).publish(1)
            box = bus.dead_letters("group:" + group)
            for turn in range(3):
                await _holds(harness, box, 1)
                assert runs[0] == 1 + turn
                assert (await harness.passing(box.replay())).done == 1
            await harness.until(lambda: runs[0] >= 4, "the third replay has failed, too")
            await _holds(harness, box, 1)
            report = await harness.passing(box.replay())
            assert (report.done, report.tired) == (0, 1)
            assert (await harness.passing(box.purge())).done == 1
            await _holds(harness, box, 0)
            await harness.silent()
        assert (runs[0], others[0]) == (4, 1)


async def _holds(harness: Harness, box: DeadLetters, count: int) -> None:
    """So many lie there, in nobody's hands."""

    async def so_many() -> bool:
        depth = await box.depth()
        return (depth.ready, depth.in_flight or 0) == (count, 0)

    await harness.until(so_many, f"{count} dead letters lie there", within=60)
