"""`unibus dlq` and `unibus depth`: what they print, and with which exit code."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from unibus import Bus, ConfigurationError, DeadLetter, Queue, TopicSubscription
from unibus.cli.commands import app
from unibus.cli.depth import watch_depth
from unibus.cli.dlq import Asked, list_letters, purge_letters, replay_letters, show_letters
from unibus.cli.opening import with_bus
from unibus.cli.printable import age, payload
from unibus.driver import Outbound, Topology

REASON = "failed 4 times: ConnectionError: the bank is away, and will be for a very long time, says the weather"
ORDERS, DEAD = Queue("orders"), Queue("orders.dlq")


def letter(number: int, body: bytes | None = None, **more: Any) -> Outbound:
    said = {"reason": REASON, "error_type": "shop.ConnectionError", "attempts": 4, "source": "orders", **more}
    attributes = {"type": "Order", **DeadLetter(**said).to_attributes()}
    return Outbound(
        body or b'{"id":%d,"town":"K\xc3\xb6ln"}' % number, attributes, {}, f"k{number}", f"order-{number:06}"
    )


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("UNIBUS_URL", raising=False)
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(params=["queue", "log"])
async def bus(request: pytest.FixtureRequest) -> AsyncIterator[Bus]:
    async with Bus(f"memory://?model={request.param}&partitions=1" if request.param == "log" else "memory://") as bus:
        await bus.driver.declare(Topology(create=(ORDERS, DEAD)))
        await bus.driver.send(DEAD, [letter(n) for n in range(5)])
        yield bus


async def replay(bus: Bus, asked: Asked, *, force: bool = False, dry_run: bool = False) -> int:
    return await replay_letters(bus, asked, rate=None, force=force, dry_run=dry_run)


async def test_ls_has_a_letter_a_line(bus: Bus, capsys: pytest.CaptureFixture[str]) -> None:
    assert await list_letters(bus, Asked("orders", limit=3)) == 0
    said = capsys.readouterr()
    lines = [line.rstrip() for line in said.out.splitlines()]
    assert lines[0] == "orders.dlq: 5 dead letters, 3 shown"
    assert lines[1].split() == ["id", "age", "runs", "error", "reason"]
    assert lines[2] == f"order-000000  ?       4  ConnectionError  {REASON}".replace("?  ", "0 s")
    assert len(lines) == 5
    assert said.err == ""


async def test_ls_fits_a_terminal(
    bus: Bus, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    await bus.driver.send(DEAD, [letter(9, source="invoices"), letter(8, reason="a\x1b[31m red\nline", attempts=2)])
    assert await list_letters(bus, Asked("orders.dlq", limit=50)) == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].split() == ["id", "age", "runs", "source", "error", "reason"]
    assert lines[2].rstrip().endswith("…")
    assert any("a\\x1b[31m red line" in line for line in lines), "shown, not sent to the terminal"


async def test_ls_as_json_has_all_of_them(bus: Bus, capsys: pytest.CaptureFixture[str]) -> None:
    assert await list_letters(bus, Asked("orders", where=["key=k3|k4"], limit=50, as_json=True)) == 0
    content = json.loads(capsys.readouterr().out)
    assert (content["queue"], content["depth"], content["browsed"]) == ("orders.dlq", 5, True)
    first, second = content["letters"]
    assert (first["id"], first["key"], first["body"]) == ("order-000003", "k3", '{"id":3,"town":"Köln"}')
    assert second["record"]["reason"] == REASON


async def test_show_prints_the_payload_with_indents(bus: Bus, capsys: pytest.CaptureFixture[str]) -> None:
    await bus.driver.send(DEAD, [letter(7, stack="Traceback\n  in charge", message="away", handler="shop.charge")])
    assert await show_letters(bus, Asked("orders", ids=["000007"]), body=False) == 0
    out = capsys.readouterr().out
    assert '{\n  "id": 7,\n  "town": "Köln"\n}' in out
    assert re.search(r"^error +shop.ConnectionError: away", out, re.MULTILINE)
    assert re.search(r"^handler +shop.charge", out, re.MULTILINE)
    assert "Traceback\n  in charge" in out


async def test_show_without_an_id_is_the_first(bus: Bus, capsys: pytest.CaptureFixture[str]) -> None:
    assert await show_letters(bus, Asked("orders", where=["id~2"], as_json=True), body=False) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["id"] == "order-000002"
    with pytest.raises(ConfigurationError, match="has 0 of the letters"):
        await show_letters(bus, Asked("orders", ids=["no-such-id"]), body=False)
    with pytest.raises(ConfigurationError, match="2 letters are meant"):
        await show_letters(bus, Asked("orders", ids=["000001", "000002"]), body=True)


async def test_show_writes_the_bytes_of_a_payload(bus: Bus, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    await bus.driver.send(DEAD, [letter(6, b"\x00\xff\r\n")])
    assert await show_letters(bus, Asked("orders", ids=["order-000006"]), body=True) == 0
    assert capfdbinary.readouterr().out == b"\x00\xff\r\n"


async def test_replay_says_what_it_did(bus: Bus, capsys: pytest.CaptureFixture[str]) -> None:
    assert await replay(bus, Asked("orders", where=["id~3"]), dry_run=True) == 0
    assert capsys.readouterr().out.splitlines() == [
        "1 of 5 dead letters of orders.dlq would be replayed", "4 not meant",
    ]  # fmt: skip
    assert (await bus.depth("orders")).ready == 0
    assert await replay(bus, Asked("orders", where=["id~3"])) == 0
    assert capsys.readouterr().out.splitlines() == ["1 of 5 dead letters of orders.dlq replayed", "4 not meant"]
    assert (await bus.depth("orders")).ready == 1
    assert (await bus.depth("orders.dlq")).ready == 4


async def test_replay_says_what_stays(bus: Bus, capsys: pytest.CaptureFixture[str]) -> None:
    tired, lost = letter(10), letter(11, source="no.such")
    tired.attributes = {**tired.attributes, "unibusreplays": "3"}
    await bus.driver.send(DEAD, [tired, lost])
    assert await replay(bus, Asked("orders.dlq")) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "5 of 7 dead letters of orders.dlq replayed"
    assert said[1].startswith("1 replayed three times already")
    assert said[2] == "1 could not be, and stay:"
    assert said[3].startswith("  order-000011: queue 'no.such' does not exist")
    assert await replay(bus, Asked("orders.dlq", as_json=True), force=True) == 1
    content = json.loads(capsys.readouterr().out)
    assert (content["done"], content["failed"], content["complete"]) == (1, 1, False)
    assert list(content["reasons"]) == ["order-000011"]


async def test_what_a_run_did_is_said_even_if_it_failed(bus: Bus, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigurationError):
        await replay(bus, Asked("orders", where=["colour=red"]))
    assert capsys.readouterr().out.startswith("0 of 0 dead letters")


async def test_purge_asks_first(bus: Bus, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[str] = []

    def no(question: str) -> bool:
        asked.append(question)
        return False

    assert await purge_letters(bus, Asked("orders"), sure=no, dry_run=False) == 2
    assert asked == ["Delete all of 5 dead letters of orders.dlq? They are gone for good."]
    assert (await bus.depth("orders.dlq")).ready == 5
    assert await purge_letters(bus, Asked("orders", where=["id~1"]), sure=no, dry_run=True) == 0
    assert await purge_letters(bus, Asked("orders", where=["id~1"]), sure=lambda question: True, dry_run=False) == 0
    assert "1 of 5 dead letters of orders.dlq purged" in capsys.readouterr().out
    assert (await bus.depth("orders.dlq")).ready == 4
    assert (await bus.depth("orders")).ready == 0


async def test_depth_of_queues_and_groups(bus: Bus, capsys: pytest.CaptureFixture[str]) -> None:
    await bus.driver.declare(Topology(create=(TopicSubscription(("user.*",), "email"),)))
    await bus.publisher("user.created").publish(1)
    names = ["orders", "orders.dlq", "group:email=user.*"]
    assert await watch_depth(bus, names, every=None, as_json=False) == 0
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()[1:]}
    assert rows["orders"] == ["0", "0", "0", "-"]
    assert rows["orders.dlq"][:3] == ["5", "0", "0"]
    assert rows["group:email=user.*"][:3] == ["1", "0", "0"]
    assert await watch_depth(bus, ["orders.dlq", "nowhere"], every=None, as_json=True) == 1
    first, second = json.loads(capsys.readouterr().out)
    assert (first["name"], first["exists"], first["ready"]) == ("orders.dlq", True, 5)
    assert second == {"name": "nowhere", "exists": False}
    if bus.session.capabilities.positional:
        with pytest.raises(ConfigurationError, match="say what it subscribes to"):
            await watch_depth(bus, ["group:email"], every=None, as_json=True)


@pytest.mark.parametrize("as_json", [True, False])
async def test_depth_is_watched(bus: Bus, capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    watching = asyncio.create_task(watch_depth(bus, ["orders.dlq"], every=0.001, as_json=as_json))
    said = ""
    async with asyncio.timeout(30):
        while said.count("orders.dlq") < 3 or not said.endswith("\n"):
            await asyncio.sleep(0.001)
            said += capsys.readouterr().out
    watching.cancel()
    await asyncio.wait([watching])
    if as_json:
        assert json.loads(said.splitlines()[0])[0]["ready"] == 5


def test_a_signal_ends_the_work_in_good_order() -> None:
    ended: list[str] = []

    async def work(bus: Bus) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("in good order")
        return 0

    assert with_bus("memory://", work) is None
    assert ended == ["in good order"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["dlq", "ls", "memory://", "orders"], "'orders.dlq' does not exist"),
        (["dlq", "ls", "orders"], "no broker is named"),
        (["dlq", "ls", "memory://"], "whose dead letters is missing"),
        (["dlq", "show", "memory://", "group:email"], "'unibus.group.email.dlq' does not exist"),
        (["dlq", "replay", "memory://", "orders", "--where", "age>soon"], "'soon' is not a number"),
        (["dlq", "replay", "memory://", "orders", "--rate", "0"], "rate=0"),
        (["dlq", "purge", "memory://", "not a name"], "is not a name"),
        (["depth", "memory://"], "whose depth is missing"),
    ],
)
def test_an_error_is_one_line_on_stderr(arguments: list[str], said: str) -> None:
    done = CliRunner(env={"COLUMNS": "160", "NO_COLOR": "1"}).invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_depth_of_what_is_not_there() -> None:
    done = CliRunner(env={"UNIBUS_URL": "memory://"}).invoke(app, ["depth", "orders"], catch_exceptions=False)
    assert done.exit_code == 1
    assert "not there" in done.stdout


@pytest.mark.parametrize(
    "command", [["dlq"], ["dlq", "ls"], ["dlq", "show"], ["dlq", "replay"], ["dlq", "purge"], ["depth"]]
)
def test_help(command: list[str]) -> None:
    done = CliRunner(env={"COLUMNS": "80"}).invoke(app, [*command, "--help"], catch_exceptions=False)
    assert done.exit_code == 0
    assert "Usage: unibus" in done.stdout.replace("Usage: root", "Usage: unibus")
    assert "[cyan]" not in done.stdout


def test_figures_and_payloads_are_made_to_be_read() -> None:
    assert [age(n) for n in (None, 0.9, 59, 60, 3599, 7200, 90000)] == [
        "?",
        "0 s",
        "59 s",
        "1 min",
        "59 min",
        "2 h",
        "1 d",
    ]
    assert payload(b'{"a":[1]}') == '{\n  "a": [\n    1\n  ]\n}'
    assert payload("grün\x1b]0;".encode()) == "grün\\x1b]0;"
    assert payload(b"\xff\x00") == "ff 00"
    assert payload(b"\xff" * 1000).endswith("\n…")
