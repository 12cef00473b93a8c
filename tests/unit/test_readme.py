"""The README tells the truth: its programs run and print what it says, its table is what the capabilities say.

python -m tests.unit.test_readme        writes the table anew
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from unibus import registry
from unibus.cli.rows import capability_rows
from unibus.driver import SystemClock, Url

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- guarantees: begin -->\n", "<!-- guarantees: end -->"
COLUMNS = {"memory": "memory://", "memory, log model": "memory://?model=log"}

EXAMPLE = re.compile(
    r"<!-- example: (?P<name>\S+) -->\n```python\n(?P<code>.*?)```\n.*?```text\n(?P<output>.*?)```", re.DOTALL
)


def examples() -> dict[str, tuple[str, str]]:
    return {found["name"]: (found["code"], found["output"]) for found in EXAMPLE.finditer(README.read_text())}


def table() -> str:
    """The guarantees as Markdown, a column a broker."""
    columns = {
        title: capability_rows(registry.connect(Url(url), SystemClock()).capabilities) for title, url in COLUMNS.items()
    }
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for cells in zip(*columns.values(), strict=True):
        shown = [cell.detail if cell.support in (None, "native") else cell.support for cell in cells]
        shown = [
            f"{cell.support}: {cell.detail}"
            if cell.support == "emulated"
            else ("no" if cell.support == "none" else text)
            for cell, text in zip(cells, shown, strict=True)
        ]
        lines.append(f"| {cells[0].name} | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


def test_the_examples_are_found() -> None:
    assert set(examples()) == {"orders.py", "middleware.py", "test_orders.py"}
    assert README.read_text().count("<!-- example:") == len(examples())


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("orders.py", ["memory://"]),
        ("orders.py", ["memory://?model=log"]),
        ("middleware.py", []),
        ("test_orders.py", []),
    ],
)
def test_an_example_prints_what_the_readme_says(name: str, arguments: list[str], tmp_path: Path) -> None:
    code, output = examples()[name]
    (tmp_path / name).write_text(code)
    done = subprocess.run(
        [sys.executable, name, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""
    assert done.stdout == output


def test_all_code_compiles() -> None:
    for block in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL):
        compile(block, "README.md", "exec")


def test_the_table_is_current() -> None:
    text = README.read_text()
    shown = text[text.index(BEGIN) + len(BEGIN) : text.index(END)]
    assert shown == table(), "run: python -m tests.unit.test_readme"


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README.read_text()):
        assert target.startswith("https://") or (README.parent / target).exists(), target


if __name__ == "__main__":
    text = README.read_text()
    README.write_text(text[: text.index(BEGIN) + len(BEGIN)] + table() + text[text.index(END) :])
