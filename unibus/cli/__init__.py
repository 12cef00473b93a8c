"""The command line, `unibus`: run a bus, check what a broker can do, list the adapters. Needs the extra `cli`."""

from __future__ import annotations

import sys


def main() -> None:
    try:
        import typer  # noqa: F401
    except ModuleNotFoundError:
        print('The command line is not installed; install it with: pip install "unibus[cli]"', file=sys.stderr)
        raise SystemExit(2) from None
    from unibus.cli.commands import app

    app(prog_name="unibus")
