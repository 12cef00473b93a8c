"""Mutants of the tools for dead letters."""

from __future__ import annotations

from typing import Any

from tests.contract.mutants.registry import change, mutant

MENDED = "test_once_mended_dead_letters_are_replayed_and_handled_once"
GROUP = "test_a_group_alone_gets_its_own_back_three_times_at_most"


@mutant(MENDED, on="TestMemoryLog")
def what_stays_is_passed_over() -> None:
    from unibus.dead_letters.clearing import Clearing

    async def forgetful(self: Clearing, hand: Any, staying: dict[Any, None]) -> None:
        await hand.ack(list(staying))
        staying.clear()

    change(Clearing, "_write_anew", forgetful)


@mutant(MENDED, on="TestMemoryLog")
def what_stays_holds_up_the_log() -> None:
    from unibus.dead_letters.clearing import Clearing

    async def idle(self: Clearing, hand: Any, staying: dict[Any, None]) -> None:
        staying.clear()

    change(Clearing, "_write_anew", idle)


@mutant(MENDED)
def letters_stay_although_replayed() -> None:
    from unibus.dead_letters.hand import Hand

    async def idle(self: Hand, deliveries: Any) -> int:
        return 0

    change(Hand, "ack", idle)


@mutant(MENDED)
def all_letters_are_meant() -> None:
    from unibus.dead_letters import box

    change(box, "all_of", lambda where: lambda letter: True)


@mutant(GROUP)
def replays_are_not_counted() -> None:
    from unibus import attributes as names
    from unibus.dead_letters.clearing import Clearing

    afresh = Clearing._afresh

    def uncounted(self: Clearing, *arguments: Any) -> Any:
        outbound = afresh(self, *arguments)
        outbound.attributes = {key: value for key, value in outbound.attributes.items() if key != names.REPLAYS}
        return outbound

    change(Clearing, "_afresh", uncounted)


@mutant(GROUP)
def a_group_is_published_to() -> None:
    from unibus.dead_letters.clearing import Clearing
    from unibus.driver import Topic

    async def publishing(self: Clearing, destination: Any, letters: Any) -> Any:
        await self._session.driver.send(
            Topic(letters[0].delivery.address), [self._afresh(one, destination) for one in letters]
        )
        return list(letters)

    change(Clearing, "_replay", publishing)
