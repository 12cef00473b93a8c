"""aiobotocore's clients: one for each service and event loop, with credentials from the default chain."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import cache
from typing import Any, TypeVar

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.loaders import create_loader

from unibus.driver import Clock
from unibus.errors import AccessDenied, ConnectionLost, Throttled
from unibus_sqs.failures import code_of, translated
from unibus_sqs.options import Place

CONNECTIONS = 10_000
"""Sockets to one service at most; botocore's own bound is 10. There are as many as consumers poll and calls are in
flight: with fewer, sends would wait for the end of other consumers' polls."""

T = TypeVar("T")

FIRST_WAIT, LONGEST_WAIT = 0.05, 1.0
"""Seconds before a call is tried again: doubled each time."""
LACKS_A_RIGHT = {"AccessDenied", "AccessDeniedException", "AuthorizationError"}


@cache
def _descriptions() -> Any:
    """Of the services, for all clients of the process: reading them anew takes longer than all else."""
    return create_loader()


class Clients:
    """Opened and closed once."""

    def __init__(self, place: Place, clock: Clock) -> None:
        self._place = place
        self._clock = clock
        self._stack = AsyncExitStack()
        self.sqs: Any = None
        self.sns: Any = None

    async def open(self) -> None:
        """Raises AccessDenied for credentials that are missing or wrong, ConnectionLost if nothing answers."""
        options = self._place.options
        # Not even once again by the client: a send whose answer was lost would be stored twice, in silence.
        config = AioConfig(
            retries={"total_max_attempts": 1, "mode": "standard"},
            # Sooner than a call is given up: what did not even connect is known not to be stored.
            connect_timeout=options.timeout / 2,
            read_timeout=options.timeout + options.wait,
            max_pool_connections=CONNECTIONS,
        )
        session = get_session()
        session.register_component("data_loader", _descriptions())
        try:
            with translated("looking for credentials"):
                found = await session.get_credentials()
                if found is None:
                    raise AccessDenied(
                        "AWS's default chain found no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                        "name a profile by AWS_PROFILE, or run where the machine has a role"
                    )
                for service in ("sqs", "sns") if options.topics else ("sqs",):
                    made = session.create_client(
                        service, region_name=self._place.region, endpoint_url=options.endpoint, config=config
                    )
                    setattr(self, service, await self._stack.enter_async_context(made))
            await self._try()
        except BaseException:
            await self.close()
            raise

    async def _try(self) -> None:
        """That somebody answers and knows us. The right to list is not needed: one that lacks it is known."""
        try:
            with translated("connecting"):
                await self.in_time(self.sqs.list_queues(MaxResults=1))
        except AccessDenied as error:
            if error.__cause__ is None or code_of(error.__cause__) not in LACKS_A_RIGHT:
                raise

    async def in_time(self, call: Awaitable[T]) -> T:
        """For every call but a poll. Raises TimeoutError; whether the call was carried out is not known then."""
        seconds = self._place.options.timeout
        try:
            async with asyncio.timeout(seconds):
                return await call
        except TimeoutError as error:
            raise TimeoutError(f"no answer within {seconds:g} s") from error

    async def ask(self, doing: str, call: Callable[[], Awaitable[Any]]) -> Any:
        """The answer to a call that may be made twice. Tried for as long as an answer may take: AWS allows few of
        those by which many programs begin. Raises DriverError."""
        deadline, wait = self._clock.monotonic() + self._place.options.timeout, FIRST_WAIT
        while True:
            try:
                with translated(doing):
                    return await self.in_time(call())
            except (ConnectionLost, Throttled):
                if self._clock.monotonic() + wait >= deadline:
                    raise
            await self._clock.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)

    async def close(self) -> None:
        await self._stack.aclose()
