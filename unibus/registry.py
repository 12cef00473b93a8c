"""Adapters and stores are found by a URL's scheme, through entry points: a third party's stand on the same footing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unibus.driver import Clock, Driver, Url
from unibus.errors import ConfigurationError, MissingDependency, UnknownScheme
from unibus.idempotency.store import IdempotencyStore
from unibus.rates import RateStore

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ADAPTERS = "unibus.adapters"
STORES = "unibus.stores"
RATES = "unibus.rates"


@dataclass(frozen=True, slots=True)
class Adapter:
    """An installed adapter. error: why it cannot be used, or None."""

    scheme: str
    distribution: str
    value: str
    error: str | None = None


def connect(url: Url, clock: Clock) -> Driver:
    """The driver for a URL, not yet opened. Raises UnknownScheme, MissingDependency, ConfigurationError."""
    driver: Driver = _found(ADAPTERS, "adapter", url)(url, clock)
    return driver


def store(url: Url, clock: Clock) -> IdempotencyStore:
    """The idempotency store for a URL, not yet opened. Raises like `connect`."""
    made: IdempotencyStore = _found(STORES, "idempotency store", url)(url, clock)
    return made


def rates(url: Url, clock: Clock) -> RateStore:
    """The store of rates for a URL, not yet opened. Raises like `connect`."""
    made: RateStore = _found(RATES, "store of rates", url)(url, clock)
    return made


def adapters() -> list[Adapter]:
    """Every installed adapter, by scheme."""
    listed = []
    for scheme, entry in sorted(_entry_points(ADAPTERS).items()):
        try:
            _load(entry)
            error = None
        except MissingDependency as missing:
            error = str(missing)
        except Exception as broken:  # one broken adapter must not hide the others
            error = f"{type(broken).__name__}: {broken}"
        listed.append(Adapter(scheme, entry.dist.name if entry.dist is not None else "?", entry.value, error))
    return listed


def _found(group: str, what: str, url: Url) -> Any:
    """What makes it."""
    found = _entry_points(group)
    entry = found.get(url.scheme)
    if entry is None:
        import difflib

        near = difflib.get_close_matches(url.scheme, found, n=1)
        hint = f" Did you mean {near[0]}://?" if near else ""
        known = ", ".join(sorted(found)) or "none"
        raise UnknownScheme(f"no {what} for {url.scheme}:// is installed.{hint} Known schemes: {known}")
    return _load(entry)


def _entry_points(group: str) -> dict[str, EntryPoint]:
    # Imported here: it costs 15 ms, and only a program that connects needs it.
    from importlib.metadata import entry_points

    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=group):
        other = found.setdefault(entry.name, entry)
        if other.value != entry.value:
            raise ConfigurationError(
                f"two adapters want {entry.name}://, {other.value} and {entry.value}; uninstall one of them"
            )
    return found


def _load(entry: EntryPoint) -> Any:
    try:
        return entry.load()
    except ImportError as error:
        extra = entry.module.split(".")[0].removeprefix("unibus_")
        distribution = entry.dist.name if entry.dist is not None else "unibus"
        install = f'pip install "unibus[{extra}]"' if distribution == "unibus" else f"pip install {distribution}"
        raise MissingDependency(
            f"{entry.name}:// needs a package that is not installed ({error}); install it with: {install}"
        ) from error
