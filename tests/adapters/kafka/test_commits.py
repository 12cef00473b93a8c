"""When commits are made, and made again."""

from __future__ import annotations

import asyncio
import logging

import pytest
from aiokafka.structs import TopicPartition

from unibus.driver import Url
from unibus.testing.clock import MovableClock
from unibus_kafka.commits import EVERY, Commits
from unibus_kafka.consumer import Member
from unibus_kafka.endpoint import Endpoint
from unibus_kafka.partition import Partition


async def test_what_cannot_be_committed_is_not_tried_again_at_once(caplog: pytest.LogCaptureFixture) -> None:
    """Not even by a forwarder, which commits at once what it has moved: it would do nothing else."""
    clock = MovableClock()
    member = Member(Endpoint(Url("kafka://127.0.0.1:1")), "group")  # it has not begun, so nothing can be committed
    partition = Partition(TopicPartition("orders", 0), 0, "", ordered=False, start=0)
    partition.mark.skip(0)
    commits = Commits(lambda: member, lambda: [partition], clock, every=0.0)
    running = asyncio.create_task(commits.run())
    try:
        with caplog.at_level(logging.DEBUG, "unibus.kafka"):
            commits.note(1)
            for tries in (1, 2):
                for _ in range(20):
                    await asyncio.sleep(0)
                assert caplog.text.count("cannot commit") == tries
                await clock.advance(EVERY)
    finally:
        running.cancel()
        await asyncio.wait([running])
        await member.stop()
