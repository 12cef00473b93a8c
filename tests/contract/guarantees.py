"""The guarantees table of the README, from a run of the contract suite.

    python -m tests.contract.guarantees check REPORT    fails unless the README says what the run found
    python -m tests.contract.guarantees write REPORT    makes the README say it

After `check REPORT` anything more says that only a part of the tests was run: then nothing is checked.
REPORT is what `pytest --unibus-report REPORT tests/contract/…` has written.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from unibus.cli.rows import Row, capability_rows
from unibus.driver import Capabilities

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- guarantees: begin -->\n", "<!-- guarantees: end -->"
COLUMNS = {
    "MemoryQueueHarness": "memory",
    "MemoryLogHarness": "memory, log model",
    "RabbitHarness": "RabbitMQ {version}",
    "Rabbit3Harness": "RabbitMQ {version}",
    "RedisHarness": "Redis {version}",
    "Redis7Harness": "Redis {version}",
    "PubSubHarness": "Redis {version}, publish/subscribe",
    "KafkaHarness": "Kafka {version}",
    "SqsHarness": "SQS and SNS, played by moto {version}",
    "ElasticMQHarness": "SQS alone, played by ElasticMQ {version}",
}
"""Harnesses, and what their columns are called."""


class Unproved(Exception):
    """The run does not bear out what a table would say."""


def table(report: dict[str, Any]) -> str:
    """A column a harness. Raises Unproved if one is missing, or a case of it failed."""
    columns = {}
    for harness, title in COLUMNS.items():
        found = report.get(harness)
        if found is None:
            raise Unproved(f"the run had no {harness}")
        columns[title.format(version=found["version"])] = [*_capabilities(found), _cases(harness, found)]
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    lines += [
        f"| {cells[0].name} | " + " | ".join(map(_shown, cells)) + " |" for cells in zip(*columns.values(), strict=True)
    ]
    return "\n".join(lines) + "\n"


def _capabilities(found: dict[str, Any]) -> list[Row]:
    said = {field.name: found["capabilities"][field.name] for field in fields(Capabilities)}
    return capability_rows(TypeAdapter(Capabilities).validate_python(said))


def _cases(harness: str, found: dict[str, Any]) -> Row:
    outcomes = [case["outcome"] for case in found["cases"].values()]
    if failed := [name for name, case in found["cases"].items() if case["outcome"] == "failed"]:
        raise Unproved(f"{harness} failed {', '.join(failed)}")
    passed, skipped = outcomes.count("passed"), outcomes.count("skipped")
    return Row("contract cases", None, f"{passed} passed, {skipped} not for this broker", ())


def _shown(cell: Row) -> str:
    if cell.support == "none":
        return "no"
    return f"emulated: {cell.detail}" if cell.support == "emulated" else cell.detail


def same(shown: str, found: str) -> bool:
    """But for the versions of servers: which one there is depends on the machine."""
    titles = [re.escape(title).replace(re.escape("{version}"), r"[\d.]+") for title in COLUMNS.values()]
    head = re.compile(r"\| \| " + r" \| ".join(titles) + r" \|\n")
    return head.sub("", shown, count=1) == head.sub("", found, count=1)


def incomplete(report: dict[str, Any]) -> bool:
    """Whether a case could not be tried, since the server is not the run's own."""
    cases = (case for found in report.values() for case in found["cases"].values())
    return any(case.get("reason", "").startswith("needs a server") for case in cases)


def main(what: str, path: str) -> int:
    text = README.read_text(encoding="utf-8")
    begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    report = json.loads(Path(path).read_text(encoding="utf-8"))
    try:
        found = table(report)
    except Unproved as error:
        print(f"no table: {error}", file=sys.stderr)
        return 1
    if what == "write":
        README.write_text(text[:begin] + found + text[end:], encoding="utf-8")
    elif incomplete(report):
        print("the README's table is not checked: a server was not this run's own, so that some cases were not tried")
    elif not same(text[begin:end], found):
        print("README.md does not say what the run found:\n", found, sep="\n", file=sys.stderr)
        print(f"python -m tests.contract.guarantees write {path}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    match sys.argv[1:]:
        case [("check" | "write") as what, report]:
            sys.exit(main(what, report))
        case ["check", _, *_]:
            print("the README's table is not checked: this was a part of the tests")
        case _:
            sys.exit(__doc__)
