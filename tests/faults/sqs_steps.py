"""The steps of a hop that are SQS's own: a delay longer than SQS has goes in stretches, and a consumer sends it on."""

from __future__ import annotations

from collections.abc import Sequence

from tests.faults.dying import Dying
from unibus.driver import Delivery
from unibus_sqs import limits
from unibus_sqs.subscription import SqsSubscription
from unibus_sqs.wire import Received

STRETCH = 5
"""Seconds, where SQS has fifteen minutes: longer than the usual retry here, and shorter than one by tiers. It holds for
all processes, since who receives a message tells by it whether more of its delay is to come."""
limits.MAX_DELAY = STRETCH  # type: ignore[misc]


def watch(dying: Dying) -> None:
    send_on = SqsSubscription._send_on

    async def send_on_and_note(self: SqsSubscription, later: Sequence[Received]) -> None:
        if all(one.delivery.message_id != dying.hop.message for one in later):
            return await send_on(self, later)
        delete = self._delete

        async def delete_and_note(deliveries: Sequence[Delivery]) -> object:
            dying.moved = True
            dying.reaches("tier: moved")
            settled = await delete(deliveries)
            dying.moved = False
            return settled

        dying.reaches("tier: before the move")
        self._delete = delete_and_note  # type: ignore[method-assign, assignment]
        try:
            await send_on(self, later)
        finally:
            self._delete = delete  # type: ignore[method-assign]
        dying.reaches("tier: committed")
        return None

    SqsSubscription._send_on = send_on_and_note  # type: ignore[method-assign]
