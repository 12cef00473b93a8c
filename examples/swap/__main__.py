"""One program on several brokers: does it tell the same story on all of them?

    python -m examples.swap memory:// amqp://guest:guest@localhost/ redis://localhost kafka://localhost

The exit code is 1 if a broker tells another story than the first, or cannot do what the shop asks for.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys

from examples.swap.shop import Guarantee, story
from unibus import UnibusError
from unibus.driver import Url

LONGEST = 60.0


async def told_on(url: str, topics: Guarantee) -> list[str]:
    async with asyncio.timeout(LONGEST):
        return await story(url, topics)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m examples.swap", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("urls", nargs="*", default=["memory://"], metavar="URL")
    parser.add_argument("--at-most-once", action="store_true", help="accept brokers whose topics may lose messages")
    given = parser.parse_args()
    logging.getLogger("unibus.consumer").setLevel(logging.ERROR)  # a dead letter is a warning, and one is meant to be
    first: list[str] | None = None
    for url in given.urls:
        shown = Url(url)  # which hides what is secret
        try:
            lines = asyncio.run(told_on(url, "at_most_once" if given.at_most_once else "at_least_once"))
        except (UnibusError, TimeoutError) as error:
            print(f"error: {shown}: {error or f'the story did not end within {LONGEST:g} s'}", file=sys.stderr)
            return 1
        if first is None:
            first = lines
            print(*lines, sep="\n")
            print(f"\n{shown}: so it went")
        elif lines == first:
            print(f"{shown}: the same")
        else:
            print(*lines, f"\nerror: {shown} told another story", sep="\n", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
