"""`python -m tests.brokers`: start brokers until Ctrl-C, or make their images."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from tests.brokers import images
from tests.brokers.catalogue import CATALOGUE, CLUSTERS
from tests.brokers.errors import BrokerUnavailable
from tests.brokers.lease import lease
from tests.brokers.servers import broker

AT_ONCE = 3
"""Images that are made at the same time."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.brokers", description=__doc__)
    parser.add_argument("what", choices=["up", "build"], help="start brokers, or only make or pull their images")
    known = [*CATALOGUE, *CLUSTERS]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(known)}; without: all")
    arguments = parser.parse_args()
    names = arguments.names or known
    if unknown := set(names) - set(known):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("tests.brokers").setLevel(logging.INFO)
    try:
        (_up if arguments.what == "up" else _build)(names)
    except BrokerUnavailable as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _build(names: list[str]) -> None:
    """Some at a time: most of it is waiting for packages."""
    held = lease()

    def build(name: str) -> None:
        began = time.monotonic()
        made = images.image(CATALOGUE[name], held)
        print(f"{name}: {made} ({time.monotonic() - began:.1f} s)", flush=True)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(build, dict.fromkeys(CLUSTERS.get(name, name) for name in names)))


def _up(names: list[str]) -> None:
    for name in names:
        began = time.monotonic()
        started = broker(name)
        took = time.monotonic() - began
        print(f"{name} {started.version}: {started.url} ({took:.1f} s)", flush=True)
    print("Ctrl-C ends them", flush=True)
    with suppress(KeyboardInterrupt):
        signal.pause()


if __name__ == "__main__":
    sys.exit(main())
