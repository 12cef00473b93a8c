"""The commands as a user types them: what they print, where, and with which exit code."""

from __future__ import annotations

import builtins
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import unibus.cli
from unibus.cli.commands import app

APP = """
from pydantic import BaseModel
from unibus import Bus, Queue, exponential, retry

class Order(BaseModel):
    id: int

bus = Bus()
reminders = bus.producer("reminders", type=Order, delay=3600)

@bus.consumer(Queue("orders", ordering="key"))
@retry(on=ConnectionError, attempts=3, backoff=exponential(1, max=10))
async def charge(order: Order) -> None: ...

@bus.subscriber("user.*", group="email")
async def mail(order: Order) -> None: ...
"""


class Result:
    def __init__(self, *arguments: str) -> None:
        environment = {"COLUMNS": "160", "NO_COLOR": "1", "TERM": "dumb"}
        done = CliRunner(env=environment).invoke(app, list(arguments), catch_exceptions=False, prog_name="unibus")
        self.code = done.exit_code
        self.out = done.stdout
        self.err = done.stderr


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with an app in it, and no broker configured anywhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("UNIBUS_URL", raising=False)
    (tmp_path / "cliapp.py").write_text(APP)
    yield tmp_path
    sys.modules.pop("cliapp", None)


@pytest.mark.parametrize("command", [[], ["run"], ["check"], ["forward"], ["adapters"]])
def test_help_says_what_it_does_and_how(command: list[str]) -> None:
    result = Result(*command, "--help")
    assert result.code == 0
    assert "Usage: unibus" in result.out
    if command in (["run"], ["check"]):
        assert "Examples" in result.out
        assert f"unibus {command[0]} " in result.out
    assert "[cyan]" not in result.out


def test_version() -> None:
    assert Result("--version").out == f"unibus {version('unibus')}\n"


def test_the_shell_can_complete() -> None:
    assert "--install-completion" in Result("--help").out
    asked = {"COMP_WORDS": "unibus ru", "COMP_CWORD": "1", "_UNIBUS_COMPLETE": "complete_bash"}
    done = subprocess.run(
        [sys.executable, "-m", "unibus.cli"], capture_output=True, text=True, env=os.environ | asked, check=True
    )
    assert done.stdout.split() == ["run"]


def test_adapters_lists_the_memory_broker() -> None:
    listed = json.loads(Result("adapters", "--json").out)
    (memory,) = [adapter for adapter in listed if adapter["scheme"] == "memory"]
    assert memory == {
        "scheme": "memory",
        "distribution": "unibus",
        "value": "unibus.memory:connect",
        "error": None,
    }
    (line,) = [line for line in Result("adapters").out.splitlines() if line.startswith("memory://")]
    assert line.split() == ["memory://", "unibus", "unibus.memory:connect", "yes"]


def test_adapters_shows_how_to_get_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from unibus.cli import adapters
    from unibus.registry import Adapter

    missing = Adapter("nats", "unibus-nats", "unibus_nats:connect", 'install it with: pip install "unibus-nats[x]"')
    monkeypatch.setattr(adapters, "adapters", lambda: [missing])
    # The brackets are text, not markup.
    assert 'no: install it with: pip install "unibus-nats[x]"' in Result("adapters").out


def test_check_prints_the_capabilities() -> None:
    result = Result("check", "memory://")
    assert result.code == 0
    rows = {line.split("  ")[0]: line for line in result.out.splitlines()}
    assert "native" in rows["groups"]
    assert "at least once" in rows["queues"]
    weaker = Result("check", "memory://?groups=off&guarantee=at_most_once").out
    rows = {line.split("  ")[0]: line for line in weaker.splitlines()}
    assert "none" in rows["groups"]
    assert "at most once" in rows["queues"]


def test_check_as_json_is_all_of_it() -> None:
    content = json.loads(Result("check", "memory://?max_body=1024", "--json").out)
    assert content["url"] == "memory://?max_body=1024"
    assert content["exact"] is True
    assert content["capabilities"]["max_body"] == 1024
    assert content["capabilities"]["delay"]["support"] == "native"
    assert "requirements" not in content
    assert json.loads(Result("check", "memory://", "--offline", "--json").out)["exact"] is False


def test_check_judges_an_app_that_fits() -> None:
    result = Result("check", "memory://", "cliapp:bus")
    assert result.code == 0
    assert "orders (charge)" in result.out
    assert "producer of reminders" in result.out
    assert "unsupported" not in result.out
    assert json.loads(Result("check", "memory://", "cliapp:bus", "--json").out)["supported"] is True


def test_check_refuses_an_app_that_asks_too_much() -> None:
    url = "memory://?delay=off&patterns=off"
    result = Result("check", url, "cliapp:bus")
    assert result.code == 1
    assert "unsupported" in result.out
    assert "the bus will refuse to start here" in result.out
    judged = Result("check", url, "cliapp:bus", "--json")
    assert judged.code == 1
    content = json.loads(judged.out)
    assert content["supported"] is False
    refused = {(row["subject"], row["asks"]) for row in content["requirements"] if row["support"] == "none"}
    assert ("email (mail)", "patterns") in refused
    assert ("producer of reminders", "delays of up to 3600 s") in refused


def test_check_lets_pass_what_is_only_good_to_have() -> None:
    """A broker that counts no deliveries cannot see a message that kills its consumer: said, not refused."""
    content = json.loads(Result("check", "memory://?count=off", "cliapp:bus", "--json").out)
    assert content["supported"] is True
    lacking = [row for row in content["requirements"] if row["support"] == "none"]
    assert lacking
    assert all(not row["required"] for row in lacking)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["check", "memroy://"], "no adapter for memroy:// is installed. Did you mean memory://?"),
        (["check", "memory://?modle=log"], "unknown option 'modle'"),
        (["check", "memory://", "cliapp:buss"], "did you mean cliapp:bus?"),
        (["check", "memory://", "cliapp.py"], "name the module: cliapp:bus"),
        (["run", "absent:bus"], "there is no module 'absent'"),
        (["run", "cliapp:bus"], "no broker is named"),
        (["run", "cliapp:bus", "--reload", "--workers", "2"], "--reload runs one process"),
        (["run", "cliapp:bus", "--workers", "9", "--health-port", "65530"], "the last would be over 65535"),
    ],
)
def test_an_error_is_one_line_on_stderr(arguments: list[str], said: str) -> None:
    result = Result(*arguments)
    assert result.code == 2
    assert result.out == ""
    assert said in result.err
    assert result.err.startswith("error: ")
    assert len(result.err.splitlines()) == 1


def test_secrets_of_the_url_are_never_printed() -> None:
    result = Result("check", "nosuch://user:hunter2@host/?password=hunter2")
    assert result.code == 2
    assert "hunter2" not in result.err


def test_a_traceback_on_request() -> None:
    result = Result("check", "memroy://", "--traceback")
    assert result.code == 2
    assert "Traceback (most recent call last)" in result.err
    assert result.err.splitlines()[-1].startswith("error: no adapter")


def test_without_the_extra_it_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real_import = builtins.__import__

    def without_typer(name: str, *rest: Any, **more: Any) -> Any:
        if name == "typer":
            raise ModuleNotFoundError("No module named 'typer'", name="typer")
        return real_import(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without_typer)
    with pytest.raises(SystemExit) as ended:
        unibus.cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        'The command line is not installed; install it with: pip install "unibus[cli]"\n'
    )


def test_forward_says_where_nothing_needs_to_be_moved() -> None:
    result = Result("forward", "memory://")
    assert result.code == 2
    assert result.err.startswith("error: memory://: nothing to forward")
