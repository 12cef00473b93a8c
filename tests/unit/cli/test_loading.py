"""From `module:attribute` to the Bus, and what is said for each way to miss it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from unibus import Bus, ConfigurationError
from unibus.cli.loading import load_bus

WriteModule = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WriteModule]:
    """Write modules into the current folder, and forget them afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    known = set(sys.modules)

    def write(name: str, source: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
        importlib.invalidate_caches()

    yield write
    for name in set(sys.modules) - known:
        if name.startswith("cliapp"):
            del sys.modules[name]


def refusal(target: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_bus(target)
    return str(caught.value)


def test_finds_the_bus_in_the_current_folder(write: WriteModule) -> None:
    write("cliapp_one.py", "from unibus import Bus\nbus = Bus('memory://')\n")
    assert isinstance(load_bus("cliapp_one:bus"), Bus)


def test_finds_it_in_a_package_and_behind_dots(write: WriteModule) -> None:
    write(
        "cliapp_package/inner.py",
        "from unibus import Bus\nclass Settings:\n    bus = Bus('memory://')\nsettings = Settings()\n",
    )
    assert isinstance(load_bus("cliapp_package.inner:settings.bus"), Bus)


@pytest.mark.parametrize("target", ["cliapp", "cliapp:", ":bus"])
def test_a_target_without_both_halves(target: str) -> None:
    assert "write module:attribute" in refusal(target)


def test_a_file_instead_of_a_module() -> None:
    assert refusal("src/cliapp.py:main") == "'src/cliapp.py:main' is a file; name the module: src.cliapp:main"
    assert refusal("./cliapp.py").endswith("name the module: cliapp:bus")


def test_a_module_that_is_not_there(write: WriteModule, tmp_path: Path) -> None:
    said = refusal("cliapp_absent:bus")
    assert "no module 'cliapp_absent'" in said
    assert str(tmp_path) in said


def test_a_module_that_misses_another_is_not_called_missing(write: WriteModule) -> None:
    write("cliapp_needs.py", "\nimport cliapp_not_there\n")
    said = refusal("cliapp_needs:bus")
    assert "importing 'cliapp_needs' failed at" in said
    assert "cliapp_needs.py, line 2: ModuleNotFoundError: No module named 'cliapp_not_there'" in said


def test_a_module_that_fails_names_the_place_and_keeps_the_cause(write: WriteModule) -> None:
    write("cliapp_fails.py", "\n\n1 / 0\n")
    with pytest.raises(ConfigurationError, match=r"cliapp_fails.py, line 3: ZeroDivisionError") as caught:
        load_bus("cliapp_fails:bus")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_module_with_a_syntax_error_names_its_own_line(write: WriteModule) -> None:
    write("cliapp_syntax.py", "x = 1\nx = = 2\n")
    assert "cliapp_syntax.py, line 2: SyntaxError" in refusal("cliapp_syntax:bus")


def test_an_attribute_that_is_not_there_suggests_the_nearest_bus(write: WriteModule) -> None:
    write("cliapp_near.py", "from unibus import Bus\norders = Bus('memory://')\nmails = Bus('memory://')\n")
    assert refusal("cliapp_near:order").endswith("has no 'order'; did you mean cliapp_near:orders?")


def test_a_module_without_a_bus_says_what_to_write(write: WriteModule) -> None:
    write("cliapp_empty.py", "x = 1\n")
    assert refusal("cliapp_empty:bus").endswith("it has no Bus at all; write `bus = Bus()` at its top level")


def test_something_that_is_not_a_bus(write: WriteModule) -> None:
    write("cliapp_other.py", "from unibus import Bus\nnumber = 1\ndef make() -> Bus: ...\n")
    assert refusal("cliapp_other:number") == "cliapp_other:number is an int, not a Bus; name a unibus.Bus"
    assert "give its result a name" in refusal("cliapp_other:make")
