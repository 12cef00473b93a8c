"""One turn of one contender, in this process: what `contest` starts, with a task on the standard input.

    python -m tests.benchmarks.contender MODULE FUNCTION

The function takes the task and returns its figures. If it is asynchronous it runs on uvloop.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys

from tests.benchmarks.load import Figures
from tests.benchmarks.task import IMPOSSIBLE, Impossible, Task


def main() -> None:
    module, function = sys.argv[1:]
    task = Task(**json.load(sys.stdin))
    turn = getattr(importlib.import_module(module), function)
    try:
        if inspect.iscoroutinefunction(turn):
            uvloop = importlib.import_module("uvloop")  # not installed where types are checked
            figures: Figures = uvloop.run(turn(task))
        else:
            figures = turn(task)
    except Impossible as reason:
        print(reason)
        sys.exit(IMPOSSIBLE)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
