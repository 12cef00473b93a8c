"""Partitions of which each has much to give."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

from aiokafka.structs import TopicPartition

from unibus_kafka.turns import Found, Turns

FULL, LEFT, EMPTY = (TopicPartition("orders", number) for number in range(3))


async def taken(logs: dict[TopicPartition, int], wanted: Sequence[int], polls: int) -> Counter[TopicPartition]:
    """How much of each log came, as the library brings it: of the first that has any. wanted: by turns."""
    turns, left, count = Turns(), dict(logs), Counter[TopicPartition]()

    async def poll(partitions: Sequence[TopicPartition], seconds: float, most: int) -> Found:
        for tp in partitions:
            if left[tp]:
                came = min(most, left[tp])
                left[tp] -= came
                return {tp: [None] * came}
        return {}

    for most in itertools.islice(itertools.cycle(wanted), polls):
        for tp, records in (await turns.poll(poll, list(logs), 0.2, most)).items():
            count[tp] += len(records)
    return count


async def test_what_waits_in_one_gets_its_share_however_places_become_free() -> None:
    for wanted in ([16], [1, 15], [15, 1], [1], [3, 13, 1]):
        count = await taken({EMPTY: 0, FULL: 10_000, LEFT: 10_000}, wanted, 60)
        assert abs(count[FULL] - count[LEFT]) <= 2 * max(wanted), wanted


async def test_little_that_is_left_comes_soon() -> None:
    """As a dead member leaves it: sixteen, beside a partition that always has more."""
    for wanted in ([1, 15], [15, 1]):
        assert (await taken({FULL: 10_000, LEFT: 16}, wanted, 6))[LEFT] == 16, wanted


async def test_nobody_waits_for_those_that_have_nothing() -> None:
    assert (await taken({EMPTY: 0, FULL: 1000}, [10], 50))[FULL] == 500


async def test_who_joins_is_not_behind() -> None:
    turns, asked = Turns(), list[list[TopicPartition]]()

    async def poll(partitions: Sequence[TopicPartition], seconds: float, most: int) -> Found:
        asked.append(list(partitions))
        return {partitions[0]: [None] * most}

    for partitions in ([FULL], [FULL], [FULL, LEFT]):
        await turns.poll(poll, partitions, 0.2, 10)
    assert asked == [[FULL], [FULL], [FULL, LEFT]]
