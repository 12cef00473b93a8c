"""How an example starts: its own text is the help, and `--url` says which broker."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from unibus import Bus, UnibusError


def run(bus: Bus, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run `main` with the bus on the broker that the command line names; what unibus refuses ends it with 1."""
    choose_url(bus)
    try:
        asyncio.run(main())
    except UnibusError as error:
        raise SystemExit(f"error: {error}") from None


def choose_url(bus: Bus) -> None:
    module = sys.modules["__main__"]
    name = module.__spec__.name.removesuffix(".__main__") if module.__spec__ else "example"
    parser = argparse.ArgumentParser(
        prog=f"python -m {name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--url", metavar="URL", help="the broker, instead of memory://")
    if url := parser.parse_args().url:
        bus.configure(url=url)
