"""The process that ends what a test run has started, however the run ends.

It acquires the engine, says where it is, and waits for the end of its input: that comes when the run is over, was
interrupted or was killed. It is in a session of its own, so that Ctrl-C in a terminal does not reach it.
"""

from __future__ import annotations

import json
import signal
import sys
from types import FrameType

from tests.brokers import engine
from tests.brokers.errors import BrokerUnavailable


def main() -> int:
    signal.signal(signal.SIGTERM, _end)
    try:
        found, session = engine.acquire()
    except BrokerUnavailable as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return 1
    try:
        print(json.dumps({"url": found.url, "own": found.own, "session": session.name}), flush=True)
        sys.stdin.read()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        engine.release(found, session)
    return 0


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
