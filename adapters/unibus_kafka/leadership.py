"""The lead of a consumer group for a moment: what its leader alone commits is committed once.

Of two that commit from outside a group, the last one wins, and what it commits may be further on. Inside of it each
generation has one leader, and its coordinator takes commits of the last generation alone: whoever leads, and finds
nothing committed, writes what nobody has written before and nobody beside it can.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from aiokafka import errors as foreign
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocol, ConsumerProtocolMemberAssignment
from aiokafka.protocol.group import JoinGroupRequest, LeaveGroupRequest, SyncGroupRequest
from aiokafka.structs import TopicPartition

from unibus_kafka.cluster import Cluster, commit_request
from unibus_kafka.failures import FOREIGN, translated

logger = logging.getLogger("unibus.kafka")

SESSION = 10.0
"""Seconds after which a leader that died is forgotten."""
# As the library's consumers join: they may be in the group already, and get on with us.
_WANTS_NOTHING = [(RoundRobinPartitionAssignor.name, RoundRobinPartitionAssignor.metadata([]).encode())]
_GETS_NOTHING = ConsumerProtocolMemberAssignment(0, [], b"").encode()
_FORGOTTEN = (foreign.UnknownMemberIdError,)
_NOT_NOW = (
    *_FORGOTTEN,
    foreign.IllegalGenerationError,
    foreign.RebalanceInProgressError,
    foreign.InconsistentGroupProtocolError,
)
"""The group is on its way to another generation, or its members are of another kind."""


class Candidate:
    """A member that reads nothing. cluster: its own, since a join holds up its connection until all have joined."""

    def __init__(self, cluster: Cluster, group: str) -> None:
        self._cluster = cluster
        self._group = group
        self._member = ""
        self._generation = -1

    async def leads(self) -> bool:
        """Join, or ask again. Whatever was committed before is seen by whom this tells that it leads."""
        with translated(f"joining {self._group}"):
            try:
                return await self._leads()
            except foreign.KafkaError as error:
                if not error.retriable:
                    raise
                logger.debug("cannot join %s just now: %r", self._group, error)
                return False

    async def _leads(self) -> bool:
        joined = await self._join()
        if not self._is_fine(joined.error_code) or joined.leader_id != joined.member_id:
            return False
        self._generation = joined.generation_id
        shares = [(member[0], _GETS_NOTHING) for member in joined.members]
        synced = await self._ask(SyncGroupRequest(self._group, self._generation, self._member, None, shares))
        return self._is_fine(synced.error_code)

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> bool:
        """Whether it still led."""
        request = commit_request(
            self._group, {tp: (offset, "") for tp, offset in offsets.items()}, self._generation, self._member
        )
        with translated(f"beginning {self._group}"):
            answer = await self._ask(request)
            return all(self._is_fine(code) for _, parts in answer.topics for _, code in parts)

    async def leave(self) -> None:
        if self._member:
            try:
                await self._ask(LeaveGroupRequest(self._group, self._member))
            except FOREIGN as error:  # it is forgotten after its session
                logger.debug("cannot leave %s: %r", self._group, error)

    async def _join(self) -> Any:
        """By a name that the coordinator gives at the first attempt."""
        timeout = int(SESSION * 1000)
        while True:
            answer = await self._ask(
                JoinGroupRequest(
                    self._group, timeout, timeout, self._member, None, ConsumerProtocol.PROTOCOL_TYPE, _WANTS_NOTHING
                )
            )
            error = foreign.for_code(answer.error_code)
            if error in _FORGOTTEN:
                self._member = ""
            elif answer.member_id:
                self._member = answer.member_id
            if error is not foreign.MemberIdRequired:
                return answer

    async def _ask(self, request: Any) -> Any:
        return await self._cluster.ask_coordinator(self._group, request)

    def _is_fine(self, code: int) -> bool:
        """False: try again. Raises what does not pass."""
        error = foreign.for_code(code)
        if error is foreign.NoError:
            return True
        if error in _NOT_NOW or error.retriable:
            return False
        raise error(self._group)
