"""aiobotocore's clients: one for each service and event loop, with credentials from the default chain."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import cache
from typing import Any

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import ClientError
from botocore.loaders import create_loader

from unibus.errors import AccessDenied
from unibus_sqs.failures import translated
from unibus_sqs.options import Place

CONNECTIONS = 100
"""Sockets to one service. Each poll holds one for as long as it waits; botocore's own bound is 10."""


@cache
def _descriptions() -> Any:
    """Of the services, for all clients of the process: reading them anew takes longer than all else."""
    return create_loader()


class Clients:
    """Opened and closed once."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._stack = AsyncExitStack()
        self.sqs: Any = None
        self.sns: Any = None

    async def open(self) -> None:
        """Raises AccessDenied for credentials that are missing or wrong, ConnectionLost if nothing answers."""
        options = self._place.options
        # Not even once again by the client: a send whose answer was lost would be stored twice, in silence.
        config = AioConfig(
            retries={"total_max_attempts": 1, "mode": "standard"},
            connect_timeout=options.timeout,
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
                for service in ("sqs", "sns"):
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
                await self.sqs.list_queues(MaxResults=1)
        except AccessDenied as error:
            if not isinstance(error.__cause__, ClientError) or not _lacks_a_right(error.__cause__):
                raise

    async def close(self) -> None:
        await self._stack.aclose()


def _lacks_a_right(error: ClientError) -> bool:
    code = str(error.response.get("Error", {}).get("Code", ""))
    return code in ("AccessDenied", "AccessDeniedException", "AuthorizationError")
