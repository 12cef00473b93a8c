"""Dead letters as rows of a table, and one as a page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from unibus import attributes as names
from unibus.cli.printable import age, one_line, payload, printable
from unibus.dead_letters.letter import Letter

_SHOWN_ID = 12
_NARROWEST = 20


def letter_table(letters: Sequence[Letter], width: int) -> Table:
    """Columns in which there is nothing to tell are left out. Reasons are cut to what is left of the width."""
    columns: dict[str, list[Text]] = {
        "id": [Text(one_line(letter.id[-_SHOWN_ID:])) for letter in letters],
        "age": [Text(age(letter.age)) for letter in letters],
        "runs": [Text(_runs(letter)) for letter in letters],
        "replays": [Text(str(letter.replays or "")) for letter in letters],
        "source": [Text(one_line(letter.source)) for letter in letters],
        "error": [Text(one_line(letter.error.rpartition(".")[2])) for letter in letters],
    }
    if len({letter.source for letter in letters}) == 1:
        del columns["source"]
    if not any(columns["replays"]):
        del columns["replays"]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, cells in columns.items():
        wide = max(len(name), *(cell.cell_len for cell in cells))
        width -= wide + 2
        table.add_column(name, no_wrap=True, justify="right" if name in ("age", "runs", "replays") else "left")
    table.add_column("reason", no_wrap=True)
    reasons = [Text(one_line(letter.reason) or "(no record of ours)") for letter in letters]
    for reason in reasons:
        reason.truncate(max(width, _NARROWEST), overflow="ellipsis")
    for row in zip(*columns.values(), reasons, strict=True):
        table.add_row(*row)
    return table


def letter_details(letter: Letter) -> Group:
    """All that is known of one, its payload with indents."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _details(letter):
        if value:
            table.add_row(name, Text(printable(value)))
    for name, value in letter.delivery.headers.items():
        table.add_row("header", Text(f"{one_line(name)}: {one_line(value)}"))
    body = letter.body
    size = "no payload (a tombstone)" if body is None else f"payload, {len(body):,} bytes"
    parts: list[Table | Text] = [table, Text(), Text(size, style="bold"), Text("" if body is None else payload(body))]
    if letter.record is not None and letter.record.stack:
        parts += [Text("stack", style="bold"), Text(printable(letter.record.stack))]
    return Group(*parts)


def _details(letter: Letter) -> Iterable[tuple[str, str]]:
    record, attributes = letter.record, letter.delivery.attributes
    yield "id", letter.id
    yield "source", letter.source
    if record is not None:
        yield "reason", record.reason
        yield "error", record.error_type + (f": {record.message}" if record.message else "")
        yield "failed", f"{record.last_failure} ({age(letter.age)} ago)"
        yield "first failed", record.first_failure if record.first_failure != record.last_failure else ""
        yield "handler", record.handler + (f" on {record.host}" if record.host else "")
        yield "topic", record.topic
        yield "trace id", record.trace_id
    yield "runs", _runs(letter)
    yield "replays", str(letter.replays or "")
    yield "key", letter.delivery.key or ""
    yield "type", letter.type
    yield "sent", attributes.get(names.TIME, "")
    yield "sent by", attributes.get(names.SOURCE, "")
    yield "content type", attributes.get(names.CONTENT_TYPE, "")
    yield "correlation", attributes.get(names.CORRELATION_ID, "")


def _runs(letter: Letter) -> str:
    return "" if letter.attempts is None else str(letter.attempts)
