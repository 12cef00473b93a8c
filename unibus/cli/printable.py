"""Text that came in messages, made fit for a terminal, and figures made fit for people."""

from __future__ import annotations

import json

_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86400.0
_SHOWN_BYTES = 256


def printable(text: str) -> str:
    """Escape sequences would move the cursor, or worse: they are shown, not sent."""
    return "".join(one if one.isprintable() or one in "\n\t" else repr(one)[1:-1] for one in text)


def one_line(text: str) -> str:
    return printable(" ".join(text.split()))


def age(seconds: float | None) -> str:
    """Never more than it is."""
    if seconds is None:
        return "?"
    for size, unit in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


def payload(body: bytes) -> str:
    """JSON with indents, other text as it is, anything else in hexadecimal digits, its beginning."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return _hexadecimal(body)
    try:
        return printable(json.dumps(json.loads(text), indent=2, ensure_ascii=False))
    except ValueError:
        return printable(text)


def _hexadecimal(body: bytes) -> str:
    lines = [body[at : at + 16].hex(" ") for at in range(0, min(len(body), _SHOWN_BYTES), 16)]
    return "\n".join([*lines, "…"] if len(body) > _SHOWN_BYTES else lines)
