"""The rules that keep the layers apart, read from the source: nothing is imported here."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_LINES = 400
SEAM = {"unibus.driver", "unibus.errors", "unibus.idempotency.store"}
# By scheme and by name: the core and the contract suite ask `capabilities`, never who the broker is.
BROKERS = {"amqp", "amqps", "rabbitmq", "kafka", "redis", "rediss", "redis+pubsub", "sqs", "sns"}
CLIENTS = {
    "aio_pika",
    "aiormq",
    "pika",
    "aiokafka",
    "confluent_kafka",
    "redis",
    "aiobotocore",
    "botocore",
    "boto3",
    "sqlalchemy",
    "aiosqlite",
    "asyncpg",
    "psycopg",
}
# What an extra brings, and the only places that may import it.
CONFINED = {
    "typer": ("unibus.cli",),
    "rich": ("unibus.cli",),
    "watchfiles": ("unibus.cli",),
    "pytest": ("unibus.testing",),
    "pyrate_limiter": ("unibus.rates", "unibus_redis.rates"),
}
VAGUE = {"utils", "util", "helpers", "helper", "base", "common", "misc"}


def sources(*roots: str) -> list[Path]:
    return sorted(path for root in roots for path in (ROOT / root).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[1:] if parts[0] == "adapters" else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Every module that the file imports, wherever it stands: in a function and under TYPE_CHECKING too.

    `from package import name` counts as `package.name` where that is a module of ours, else as `package`.
    """
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            module = node.module or ""
            for alias in node.names:
                inner = ROOT.joinpath(*module.split("."), alias.name)
                is_module = inner.with_suffix(".py").exists() or inner.is_dir()
                yield node.lineno, f"{module}.{alias.name}" if is_module else module


def is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def drivers() -> list[tuple[str, Path]]:
    """The packages that implement the seam: the reference driver and every adapter, with their files."""
    packages = [ROOT / "unibus" / "memory"]
    packages += [path for path in (ROOT / "adapters").iterdir() if path.is_dir() and path.name != "__pycache__"]
    return [(module_name(package / "__init__.py"), path) for package in packages for path in package.rglob("*.py")]


def test_drivers_know_the_seam_and_the_errors_only() -> None:
    found = drivers()
    assert found
    wrong = [
        f"{path}:{line}: {imported}"
        for package, path in found
        for line, imported in imports(path)
        if is_in(imported, "unibus") and imported not in SEAM and not is_in(imported, package)
    ]
    assert wrong == []


def test_adapters_do_not_import_each_other() -> None:
    names = {package for package, _ in drivers()}
    wrong = [
        f"{path}:{line}: {imported}"
        for package, path in drivers()
        for line, imported in imports(path)
        if imported.split(".")[0] in names - {package}
    ]
    assert wrong == []


def test_every_adapter_says_that_it_is_typed() -> None:
    packages = [path for path in (ROOT / "adapters").iterdir() if (path / "__init__.py").exists()]
    assert [package.name for package in packages if not (package / "py.typed").exists()] == []


def test_unibus_imports_no_adapter_and_no_client_library() -> None:
    wrong = [
        f"{path}:{line}: {imported}"
        for path in sources("unibus")
        for line, imported in imports(path)
        if imported.split(".")[0] in CLIENTS or imported.startswith("unibus_")
    ]
    assert wrong == []


def test_core_does_not_name_the_memory_driver() -> None:
    """It is found by its scheme like any other; only the test kit, which is about it, may import it."""
    wrong = [
        f"{path}:{line}: {imported}"
        for path in sources("unibus")
        for line, imported in imports(path)
        if is_in(imported, "unibus.memory")
        and not any(is_in(module_name(path), own) for own in ("unibus.memory", "unibus.testing"))
    ]
    assert wrong == []


def test_what_an_extra_brings_stays_in_its_package() -> None:
    wrong = [
        f"{path}:{line}: {imported}"
        for path in sources("unibus", "adapters")
        for line, imported in imports(path)
        if (places := CONFINED.get(imported.split(".")[0])) and not any(is_in(module_name(path), own) for own in places)
    ]
    assert wrong == []


def test_core_does_not_import_the_cli_or_the_test_kit() -> None:
    wrong = [
        f"{path}:{line}: {imported}"
        for path in sources("unibus", "adapters")
        for line, imported in imports(path)
        for own in ("unibus.cli", "unibus.testing")
        if is_in(imported, own) and not is_in(module_name(path), own)
    ]
    assert wrong == []


def test_no_vague_module_names() -> None:
    assert [str(path) for path in sources("unibus", "adapters") if VAGUE & set(module_name(path).split("."))] == []


def test_files_are_small() -> None:
    lengths = {str(path): len(path.read_text().splitlines()) for path in sources("unibus", "adapters")}
    assert {path: length for path, length in lengths.items() if length > MAX_LINES} == {}


def test_no_broker_is_named_in_the_code_of_the_core() -> None:
    """Prose (docstrings) may say `redis`; code may not compare with it, look it up or branch on it."""
    wrong = []
    for path in sources("unibus"):
        tree = ast.parse(path.read_text())
        prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        wrong += [
            f"{path}:{node.lineno}: {node.value!r}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and node.value.lower().removesuffix("://") in BROKERS
            and id(node) not in prose
        ]
    assert wrong == []


def test_no_exception_is_swallowed() -> None:
    wrong = [
        f"{path}:{node.lineno}"
        for path in sources("unibus", "adapters")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ExceptHandler) and _is_broad(node.type) and _does_nothing(node.body)
    ]
    assert wrong == []


def _is_broad(caught: ast.expr | None) -> bool:
    names = caught.elts if isinstance(caught, ast.Tuple) else [caught]
    return any(
        name is None or (isinstance(name, ast.Name) and name.id in {"Exception", "BaseException"}) for name in names
    )


def _does_nothing(body: list[ast.stmt]) -> bool:
    return all(
        isinstance(statement, ast.Pass | ast.Continue)
        or (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
        for statement in body
    )


@pytest.mark.parametrize(
    ("code", "swallowed"),
    [
        ("try:\n    f()\nexcept Exception:\n    pass\n", True),
        ("try:\n    f()\nexcept (ValueError, BaseException):\n    ...\n", True),
        ("try:\n    f()\nexcept:\n    continue\n", True),
        ("try:\n    f()\nexcept KeyError:\n    pass\n", False),
        ("try:\n    f()\nexcept Exception as error:\n    outcome = error\n", False),
    ],
)
def test_the_rule_on_swallowing_sees_what_it_is_for(code: str, swallowed: bool) -> None:
    (handler,) = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ExceptHandler)]
    assert (_is_broad(handler.type) and _does_nothing(handler.body)) is swallowed
