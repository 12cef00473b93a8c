"""The README tells the truth: its programs run and print what it says. (Its table: tests.contract.guarantees.)"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"
EXAMPLE = re.compile(
    r"<!-- example: (?P<name>\S+) -->\n```python\n(?P<code>.*?)```\n.*?```text\n(?P<output>.*?)```", re.DOTALL
)


def examples() -> dict[str, tuple[str, str]]:
    return {found["name"]: (found["code"], found["output"]) for found in EXAMPLE.finditer(README.read_text())}


def test_the_examples_are_found() -> None:
    assert set(examples()) == {"orders.py", "middleware.py", "dead_letters.py", "test_orders.py"}
    assert README.read_text().count("<!-- example:") == len(examples())


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("orders.py", ["memory://"]),
        ("orders.py", ["memory://?model=log"]),
        ("middleware.py", []),
        ("dead_letters.py", []),
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


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README.read_text()):
        heading = f"\n## {target[1:]}\n".lower()
        there = heading in README.read_text().lower() if target.startswith("#") else (README.parent / target).exists()
        assert target.startswith("https://") or there, target
