"""What a user installs: the wheel and the editable install, each in a new environment; the cost of the import."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PROBE_ENTRY = '[project.entry-points."unibus.adapters"]\nprobe = "unibus_probe:connect"\n'

# What is run in the new environments. It prints one JSON object.
INSPECT = """
import importlib.metadata, importlib.util, json
import unibus, unibus_probe
print(json.dumps({
    "unibus": unibus.__file__,
    "probe": unibus_probe.__file__,
    "answer": unibus_probe.ANSWER,
    "adapters": sorted(entry.name for entry in importlib.metadata.entry_points(group="unibus.adapters")),
    "stray": [name for name in ("tests", "examples", "adapters") if importlib.util.find_spec(name)],
}))
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project as it is, with one more adapter in `adapters/`: what the first real one will look like."""
    tree = tmp_path_factory.mktemp("project")
    for name in ("unibus", "adapters", "tests", "examples"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "LICENSE", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tree)
    pyproject = (ROOT / "pyproject.toml").read_text()
    group = PROBE_ENTRY.splitlines()[0] + "\n"
    assert pyproject.count(group) == 1
    (tree / "pyproject.toml").write_text(pyproject.replace(group, PROBE_ENTRY))
    probe = tree / "adapters" / "unibus_probe"
    probe.mkdir()
    (probe / "__init__.py").write_text("ANSWER = 42\n\n\ndef connect(url, clock):\n    raise NotImplementedError\n")
    (probe / "py.typed").touch()
    return tree


@pytest.fixture(scope="module")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    _run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(out), str(tree))
    (built,) = out.glob("unibus-*.whl")
    return built


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    top_level = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    adapters = {path.name for path in (ROOT / "adapters").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert top_level == {"unibus", "unibus_probe"} | adapters
    assert "unibus/py.typed" in names
    assert "unibus_probe/py.typed" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_wheel_installs_into_a_new_environment(wheel: Path, tmp_path: Path) -> None:
    python = _new_environment(tmp_path / "venv")
    _run(python, "-m", "pip", "install", "--quiet", str(wheel))
    seen = _inspect(python, cwd=tmp_path)
    site = str(tmp_path / "venv")
    assert seen["unibus"].startswith(site)
    assert seen["probe"].startswith(site)
    assert seen["answer"] == 42
    assert {"memory", "probe"} <= set(seen["adapters"])
    assert seen["stray"] == []
    # Without the extra the command line says, in one sentence, how to get it.
    bare = subprocess.run([str(Path(python).parent / "unibus"), "--help"], capture_output=True, text=True, check=False)
    assert bare.returncode == 2
    assert 'pip install "unibus[cli]"' in bare.stderr
    assert len(bare.stderr.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_editable_install_puts_both_roots_on_the_path(tree: Path, tmp_path: Path) -> None:
    python = _new_environment(tmp_path / "venv")
    _run(python, "-m", "pip", "install", "--quiet", "--editable", str(tree))
    seen = _inspect(python, cwd=tmp_path)
    assert seen["unibus"] == str(tree / "unibus" / "__init__.py")
    assert seen["probe"] == str(tree / "adapters" / "unibus_probe" / "__init__.py")
    assert {"memory", "probe"} <= set(seen["adapters"])


PYDANTIC = """
from pydantic import BaseModel
class Order(BaseModel):
    id: int
"""


def test_import_loads_pydantic_and_the_standard_library_alone() -> None:
    before, after = _modules(PYDANTIC), _modules(PYDANTIC + "import unibus")
    added = after - before
    assert {name.split(".")[0] for name in added} - {"unibus", "pydantic"} <= set(sys.stdlib_module_names)
    # Left to the moment when they are used: by connecting, by reading a configuration, by the command line, by tests.
    late = {"importlib.metadata", "tomllib", "multiprocessing", "http", "email", "urllib.request", "pytest"}
    assert added.isdisjoint(late)
    own = ("unibus.memory", "unibus.cli", "unibus.testing")
    assert [name for name in sorted(added) if name.startswith(own)] == []


def test_import_is_not_slow(tmp_path: Path) -> None:
    """The aim is 1.5 x pydantic's own import; the bound is five times that, since a machine may be busy."""
    plain, ours = [], []
    for _ in range(7):
        plain.append(_seconds(PYDANTIC, tmp_path))
        ours.append(_seconds(PYDANTIC + "import unibus", tmp_path))
    ratio = min(ours) / min(plain)
    print(f"import unibus: {ratio:.2f} x import pydantic with a model ({min(ours):.3f} s, {min(plain):.3f} s)")
    assert ratio <= 5 * 1.5


def _modules(program: str) -> set[str]:
    out = _run(sys.executable, "-c", program + "\nimport sys; print(*sys.modules)")
    return set(out.split())


def _seconds(program: str, bytecode: Path) -> float:
    # With bytecode, as an installed package has it: what runs the tests may have switched it off.
    environment = _environment({"PYTHONPYCACHEPREFIX": str(bytecode)})
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    timed = "import time; start = time.perf_counter()\n" + program + "\nprint(time.perf_counter() - start)"
    return float(_run(sys.executable, "-c", timed, environment=environment))


def _new_environment(folder: Path) -> str:
    venv.create(folder, with_pip=True, symlinks=True)
    return str(folder / "bin" / "python")


def _inspect(python: str, cwd: Path) -> dict[str, Any]:
    seen: dict[str, Any] = json.loads(_run(python, "-c", textwrap.dedent(INSPECT), cwd=cwd))
    return seen


def _run(*command: str, cwd: Path = ROOT, environment: dict[str, str] | None = None) -> str:
    """Its output; shown in full if it fails."""
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env=environment or _environment({}), check=False
    )
    assert done.returncode == 0, f"{' '.join(command[:5])} …\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _environment(more: dict[str, str]) -> dict[str, str]:
    """What is there, without what would leak this environment's packages into another."""
    leaks = {"PYTHONPATH", "VIRTUAL_ENV"}
    return {name: value for name, value in os.environ.items() if name not in leaks} | more
