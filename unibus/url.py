"""A broker's URL that never shows its secrets."""

from __future__ import annotations

from typing import TypeVar
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from pydantic import BaseModel, ValidationError

from unibus.errors import ConfigurationError

M = TypeVar("M", bound=BaseModel)

MASK = "***"
_SECRET_PARTS = ("password", "passwd", "token", "key", "secret", "sasl_", "aws_", "credential", "cert")


class Url:
    """Parsed once; `str`, `repr` and every error show `***` in place of user info and secrets."""

    __slots__ = ("hosts", "options", "password", "path", "scheme", "username")

    def __init__(self, text: str) -> None:
        parts = urlsplit(text)
        if not parts.scheme or "://" not in text:
            raise ConfigurationError(
                "the broker's URL has no scheme; it looks like scheme://host/path?option=value, e.g. memory://"
            )
        self.scheme = parts.scheme.lower()
        self.hosts = _hosts(parts.scheme, parts.netloc.rpartition("@")[2])
        self.username = unquote(parts.username) if parts.username is not None else None
        self.password = unquote(parts.password) if parts.password is not None else None
        self.path = parts.path
        self.options: dict[str, str] = {}
        for name, value in parse_qsl(parts.query, keep_blank_values=True):
            if name in self.options:
                raise ConfigurationError(f"option {name!r} stands twice in {self}; give it once")
            self.options[name] = value

    @property
    def host(self) -> str:
        """The first of them, "" for none."""
        return self.hosts[0][0]

    @property
    def port(self) -> int | None:
        return self.hosts[0][1]

    def parse_options(self, model: type[M]) -> M:
        """The URL's options as the adapter's own model; unknown ones and bad values are named."""
        known = {field.alias or name for name, field in model.model_fields.items()}
        for name in self.options:
            if name not in known:
                import difflib

                near = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ConfigurationError(
                    f"unknown option {name!r} in {self}{hint} Known: {', '.join(sorted(known)) or 'none'}"
                )
        try:
            return model.model_validate(self.options)
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
                for problem in error.errors(include_input=False, include_url=False)
            )
            raise ConfigurationError(f"bad option in {self}: {problems}") from None

    def __str__(self) -> str:
        user = f"{MASK}@" if self.username is not None or self.password is not None else ""
        hosts = ",".join(_spelled(host, port) for host, port in self.hosts)
        query = "&".join(f"{quote(name)}={_masked(name, value)}" for name, value in self.options.items())
        return f"{self.scheme}://{user}{hosts}{self.path}" + (f"?{query}" if query else "")

    def __repr__(self) -> str:
        return f"Url({str(self)!r})"


def _hosts(scheme: str, text: str) -> tuple[tuple[str, int | None], ...]:
    """Several, with commas between them, are nodes of one cluster."""
    hosts = []
    for one in text.split(","):
        parts = urlsplit(f"//{one}")
        try:
            hosts.append((parts.hostname or "", parts.port))
        except ValueError as error:
            raise ConfigurationError(f"the port of the {scheme}:// URL is not a number up to 65535") from error
    return tuple(hosts)


def _spelled(host: str, port: int | None) -> str:
    shown = f"[{host}]" if ":" in host else host
    return shown if port is None else f"{shown}:{port}"


def _masked(name: str, value: str) -> str:
    lower = name.lower()
    return MASK if any(part in lower for part in _SECRET_PARTS) else quote(value, safe="/:")
