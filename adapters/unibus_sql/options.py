"""What a URL says: the engine, how many transactions at once, and how long a call may take."""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import unquote

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from unibus.driver import Url
from unibus.errors import ConfigurationError, MissingDependency

RESERVE = 4
"""Connections beside those of transactions: calls of the store must not wait until a handler ends."""

_DRIVERS = {"aiosqlite": "unibus[sql]", "asyncpg": "unibus[sql]", "psycopg": "psycopg[binary]"}


class Options(BaseModel):
    """pool: transactions of handlers at once. timeout: seconds that one call of the store may take.

    ssl: as PostgreSQL's sslmode; by default as its driver does, which is "prefer".
    """

    model_config = ConfigDict(extra="forbid")

    pool: int = Field(10, ge=1, le=1000)
    timeout: float = Field(10.0, gt=0, le=600)
    ssl: Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] | None = None


def made(url: Url) -> tuple[Options, AsyncEngine]:
    """Opens nothing. Raises ConfigurationError, MissingDependency."""
    options = url.parse_options(Options)
    backend, _, driver = url.scheme.partition("+")
    database = unquote(url.path.removeprefix("/"))
    if backend == "sqlite":
        target, settings = _sqlite(url, database, options)
    else:
        target, settings = _postgresql(url, database, driver, options)
    try:
        # What is asked may be anybody's data: it belongs in no error message.
        return options, create_async_engine(target, hide_parameters=True, max_overflow=RESERVE, **settings)
    except ModuleNotFoundError as error:
        install = _DRIVERS.get(driver, driver)
        raise MissingDependency(
            f'{url.scheme}:// needs a package that is not installed ({error}); install it with: pip install "{install}"'
        ) from error


def _sqlite(url: Url, database: str, options: Options) -> tuple[URL, dict[str, Any]]:
    if url.host or database in ("", ":memory:"):
        raise ConfigurationError(
            f"{url} names no file: {url.scheme}:///relative.db, or {url.scheme}:////absolute.db with four slashes"
        )
    if options.ssl is not None:
        raise ConfigurationError(f"{url}: SQLite has no ssl; leave it out")
    # Shorter than a call may take: it blocks a thread, which nobody could call back.
    return URL.create(url.scheme, database=database), {"connect_args": {"timeout": options.timeout * 0.8}}


def _postgresql(url: Url, database: str, driver: str, options: Options) -> tuple[URL, dict[str, Any]]:
    if len(url.hosts) > 1:
        raise ConfigurationError(f"{url} names several hosts; name one, or make an engine of your own for SqlStore")
    arguments: dict[str, Any] = {}
    if driver == "psycopg":
        arguments["connect_timeout"] = max(1, round(options.timeout))
        if options.ssl is not None:
            arguments["sslmode"] = options.ssl
    else:
        arguments["timeout"] = options.timeout
        if options.ssl is not None:
            arguments["ssl"] = options.ssl
    target = URL.create(
        url.scheme,
        url.username,
        url.password,
        url.host or "localhost",
        url.port,
        database or url.username or "postgres",
    )
    return target, {"connect_args": arguments, "pool_size": options.pool}
