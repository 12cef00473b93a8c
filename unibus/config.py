"""Configuration: UNIBUS_URL, then `unibus.toml`, then `[tool.unibus]` in `pyproject.toml`, in the working directory.

url = "amqp://…"
[consumers.orders]            # by queue or group
concurrency = 50
[queues.orders]
ordering = "key"
partitions = 12
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unibus.address import Ordering
from unibus.attributes import MAX_ATTEMPT
from unibus.errors import ConfigurationError

URL_VARIABLE = "UNIBUS_URL"


class ConsumerSettings(BaseModel):
    """Overrides for one handler: what is set here wins over the decorator."""

    model_config = ConfigDict(extra="forbid")

    concurrency: int | None = Field(default=None, ge=1)
    prefetch: int | None = Field(default=None, ge=1)
    max_batch: int | None = Field(default=None, ge=1)
    max_wait: float | None = Field(default=None, ge=0)
    timeout: float | None = Field(default=None, gt=0)
    retry_attempts: int | None = Field(default=None, ge=1, le=MAX_ATTEMPT)
    retry_budget: float | None = Field(default=None, gt=0, le=1)


class AddressSettings(BaseModel):
    """A declaration of a queue or a topic."""

    model_config = ConfigDict(extra="forbid")

    ordering: Ordering = "none"
    partitions: int | None = Field(default=None, ge=1)
    physical: str | None = None


class Settings(BaseModel):
    """The whole of it."""

    model_config = ConfigDict(extra="forbid")

    url: str | None = None
    durable: bool = False
    idempotency_store: str | None = None
    consumers: dict[str, ConsumerSettings] = Field(default_factory=dict)
    queues: dict[str, AddressSettings] = Field(default_factory=dict)
    topics: dict[str, AddressSettings] = Field(default_factory=dict)

    def consumer(self, name: str) -> ConsumerSettings:
        """What is set for a consumer, if anything."""
        return self.consumers.get(name, ConsumerSettings())


def load(directory: Path | None = None) -> Settings:
    """Raises ConfigurationError that names the file and the key. The URL of the environment wins."""
    directory = directory or Path.cwd()
    settings = Settings()
    for path, below in ((directory / "unibus.toml", ()), (directory / "pyproject.toml", ("tool", "unibus"))):
        found = _read(path, below)
        if found is not None:
            settings = _validate(found, path)
            break
    url = os.environ.get(URL_VARIABLE)
    return settings.model_copy(update={"url": url}) if url else settings


def _read(path: Path, below: tuple[str, ...]) -> dict[str, Any] | None:
    import tomllib  # only a program that starts needs it

    try:
        content: Any = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}") from error
    for key in below:
        content = content.get(key)
        if content is None:
            return None
    return content if isinstance(content, dict) else None


def _validate(content: dict[str, Any], path: Path) -> Settings:
    try:
        return Settings.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
            for problem in error.errors(include_url=False, include_input=False)
        )
        raise ConfigurationError(f"{path}: {problems}") from None
