"""Batches: within AWS's limits, with an outcome for each message; and its errors in our words."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import ClientOSError
from botocore.exceptions import (
    ClientError,
    EndpointConnectionError,
    NoCredentialsError,
    PartialCredentialsError,
    ReadTimeoutError,
)

from unibus.driver import Delivery, SystemClock
from unibus.errors import (
    AccessDenied,
    ConnectionLost,
    DestinationNotFound,
    DriverError,
    MessageTooLarge,
    NotSent,
    OutcomeUnknown,
    Rejected,
    Throttled,
)
from unibus_sqs.batching import Batches
from unibus_sqs.failures import of_send, translate
from unibus_sqs.limits import MAX_BYTES
from unibus_sqs.settling import settle
from unibus_sqs.wire import Handle, size_of


def answered(code: str, status: int, message: str = "no") -> ClientError:
    told: Any = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(told, "SendMessageBatch")


def batches(patience: float = 5.0) -> Batches:
    return Batches(body="MessageBody", most=MAX_BYTES, patience=patience, clock=SystemClock())


def entries(*sizes: int) -> list[Any]:
    return [{"Id": str(n), "MessageBody": "x" * size, "MessageAttributes": {}} for n, size in enumerate(sizes)]


class Server:
    """What a client's call answers, one after the other; then success. calls: the ids of each."""

    def __init__(self, *answers: Any) -> None:
        self.calls: list[list[str]] = []
        self._answers = list(answers)

    async def __call__(self, batch: list[Any]) -> Any:
        self.calls.append([entry["Id"] for entry in batch])
        answer = self._answers.pop(0) if self._answers else {}
        if isinstance(answer, Exception):
            raise answer
        return answer


def failed(*ids: str, code: str, fault: bool) -> Any:
    return {"Failed": [{"Id": id_, "SenderFault": fault, "Code": code} for id_ in ids]}


async def test_batches_keep_to_ten_and_to_the_bytes_and_name_each_failure() -> None:
    calls: list[list[str]] = []

    async def call(batch: list[Any]) -> Any:
        calls.append([entry["Id"] for entry in batch])
        assert len(batch) <= 10
        assert sum(size_of(entry, "MessageBody") for entry in batch) <= MAX_BYTES
        return {"Failed": [{"Id": one["Id"], "SenderFault": True, "Code": "c"} for one in batch if one["Id"] == "3"]}

    sizes = [*[10] * 14, MAX_BYTES, MAX_BYTES + 1, MAX_BYTES // 2, MAX_BYTES // 2 + 1]
    errors = await batches().send(entries(*sizes), call, ordered=False)
    assert calls == [[str(n) for n in range(10)], ["10", "11", "12", "13"], ["14"], ["16"], ["17"]]
    assert {place: type(error) for place, error in errors.items()} == {3: Rejected, 15: MessageTooLarge}


async def test_what_was_not_taken_is_sent_again_alone() -> None:
    server = Server(failed("1", code="InternalError", fault=False), failed("1", code="RequestThrottled", fault=True))
    assert not await batches().send(entries(1, 1, 1), server, ordered=False)
    assert server.calls == [["0", "1", "2"], ["1"], ["1"]]


async def test_in_order_what_was_not_taken_is_not_sent_behind_later_ones() -> None:
    server = Server(failed("1", code="InternalError", fault=False))
    errors = await batches().send(entries(1, 1, 1), server, ordered=True)
    assert server.calls == [["0", "1", "2"]]
    assert {place: type(error) for place, error in errors.items()} == {1: NotSent}


NOBODY_THERE = EndpointConnectionError(endpoint_url="http://x", error=socket.gaierror())
# aiobotocore calls both the same.
BROKEN_IN_USE = EndpointConnectionError(endpoint_url="http://x", error=ClientOSError())


@pytest.mark.parametrize("error", [answered("Throttling", 400), NOBODY_THERE], ids=repr)
async def test_a_call_that_stored_nothing_is_made_again_whole(error: Exception) -> None:
    server = Server(error, error)
    assert not await batches().send(entries(1, 1), server, ordered=True)
    assert server.calls == [["0", "1"]] * 3


@pytest.mark.parametrize("error", [ReadTimeoutError(endpoint_url="http://x"), BROKEN_IN_USE], ids=repr)
async def test_what_may_be_stored_is_not_sent_again(error: Exception) -> None:
    server = Server(error)
    errors = await batches().send(entries(1, 1), server, ordered=False)
    assert server.calls == [["0", "1"]]
    assert {type(error) for error in errors.values()} == {OutcomeUnknown}


async def test_after_its_time_a_throttled_send_ends() -> None:
    server = Server(*[answered("Throttling", 400)] * 9)
    errors = await batches(patience=0.1).send(entries(1), server, ordered=False)
    assert isinstance(errors[0], NotSent)
    assert len(server.calls) < 9


@pytest.mark.parametrize(
    ("error", "made"),
    [
        (answered("AWS.SimpleQueueService.NonExistentQueue", 400), DestinationNotFound),
        (answered("com.amazonaws.sqs#QueueDoesNotExist", 400), DestinationNotFound),
        (answered("AccessDenied", 403), Rejected),
        (answered("InvalidParameterValue", 400), Rejected),
        (answered("RequestTimeTooSkewed", 403), NotSent),
        (answered("SignatureDoesNotMatch", 403, "Signature expired: 1 is now earlier than 2"), NotSent),
        (answered("OverLimit", 400), NotSent),
        (answered("KmsThrottled", 400), NotSent),
        (answered("ServiceUnavailable", 503), OutcomeUnknown),
        (answered("SomethingNew", 500), OutcomeUnknown),
        (ReadTimeoutError(endpoint_url="http://x"), OutcomeUnknown),
        (ConnectionResetError(), OutcomeUnknown),
        (BROKEN_IN_USE, OutcomeUnknown),
        (NOBODY_THERE, NotSent),
        (ConnectionRefusedError(), NotSent),
        (NoCredentialsError(), NotSent),
    ],
    ids=repr,
)
def test_what_becomes_of_the_messages_of_a_call(error: Exception, made: type[Exception]) -> None:
    ours = of_send(error)
    assert type(ours) is made
    assert ours.__cause__ is error or ours.__cause__ is not None


@pytest.mark.parametrize(
    ("error", "kind", "retryable"),
    [
        (answered("InvalidClientTokenId", 403), AccessDenied, False),
        (answered("ExpiredToken", 403), AccessDenied, False),
        (PartialCredentialsError(provider="env", cred_var="AWS_SECRET_ACCESS_KEY"), AccessDenied, False),
        (answered("TooManyRequestsException", 429), Throttled, True),
        (answered("QueueDeletedRecently", 400), Throttled, True),
        (answered("RequestTimeTooSkewed", 403), ConnectionLost, True),
        (answered("Unheard", 400), DriverError, False),
    ],
    ids=repr,
)
def test_errors_in_our_words(error: Exception, kind: type[DriverError], retryable: bool) -> None:
    ours = translate(error, "asking")
    assert (type(ours), ours.retryable) == (kind, retryable)
    assert str(ours).startswith("asking: ")


def test_an_error_shows_no_key() -> None:
    error = answered("InvalidClientTokenId", 403, "the key AKIAIOSFODNN7EXAMPLE is unknown")
    assert "AKIA" not in str(translate(error, "asking"))


# --- settling ---------------------------------------------------------------------------------------------


def held(count: int) -> list[Delivery]:
    return [
        Delivery(b"", {}, {}, None, f"m{n}", "orders", None, 1, False, Handle(f"r{n}", 1e9, 1e9)) for n in range(count)
    ]


async def settled(deliveries: list[Delivery], call: Callable[[list[Any]], Any]) -> Any:
    return await settle(deliveries, call, doing="settling", clock=SystemClock(), seconds=None)


async def test_each_delivery_has_an_outcome_of_its_own() -> None:
    stale = {"Id": "1", "SenderFault": True, "Code": "ReceiptHandleIsInvalid"}
    busy = {"Id": "2", "SenderFault": False, "Code": "InternalError"}
    server = Server({"Failed": [stale, busy]})
    deliveries = held(12)
    outcome = await settled(deliveries, server)
    assert (outcome.stale, outcome.failed, outcome.why) == ([deliveries[1]], [], None)
    assert set(outcome.done) == {one for one in deliveries if one is not deliveries[1]}
    assert [len(call) for call in server.calls] == [10, 1, 2]


async def test_a_call_that_fails_leaves_what_was_to_follow() -> None:
    deliveries = held(25)
    outcome = await settled(deliveries, Server({}, answered("ServiceUnavailable", 503)))
    assert (outcome.done, outcome.failed) == (deliveries[:10], deliveries[10:])
    assert isinstance(outcome.why, ConnectionLost)


async def test_what_is_lost_while_others_are_settled_is_left_alone() -> None:
    deliveries = held(12)

    async def call(batch: list[Any]) -> Any:
        deliveries[11].token = "lost"
        return {}

    outcome = await settled(deliveries, call)
    assert outcome.stale == [deliveries[11]]
    assert outcome.done == deliveries[:11]
