"""Nothing that came from outside is anything but text on the screen of whoever typed a command."""

import ast
import io
import json
import logging
import re
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import ErrorInfo

import poolkeeper.cli
import poolkeeper_server.cli
from poolkeeper import Place, errors
from poolkeeper.cli import denial, queue, screen
from poolkeeper.v1 import admin_pb2 as pb
from poolkeeper.v1 import licensing_pb2
from tests.unit.cli.canned import CannedDaemon, Refusal
from tests.unit.cli.conftest import Command

pytestmark = pytest.mark.invariant("SCREEN")

#: What would act: markup, a link and an emoji of our own library; and what terminals obey or hide.
HOSTILE = {
    "an end of markup": "[/x]",
    "a backslash before it": "\\[/x]",
    "a link in markup": "[link=http://evil.example]x",
    "an emoji": ":skull:",
    "a link in escapes": "\x1b]8;;http://evil.example\x1b\\x",
    "a title": "\x1b]0;owned\x07",
    "a cleared screen": "\x1b[2J\x1b[H",
    "an order in one character": "\x9b2J",
    "another direction": "\u202egnp.exe",
    "an isolate": "\u2066x\u2069",
    "nothing to see": "a\u200bb\ufeffc",
    "a line of ours": "x\nPROVED: acme/west",
    "a line of ours on the web": "x\u2028PROVED: acme/west",
    "a return": "x\rPROVED: acme/west",
    "a tab": "a\tb",
}
PRINTABLE = ("an end of markup", "a backslash before it", "a link in markup", "an emoji")


@pytest.fixture
def at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both streams are a person's, who has colours and room."""
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "400")


def text_of(out: str) -> str:
    """What is left without the colours, which are ours; all of it must be text."""
    bare = re.sub(r"\x1b\[[0-9;]*m", "", out)
    assert bare.replace("\n", "").isprintable()
    return bare


def allocation(hostile: str) -> licensing_pb2.Allocation:
    return licensing_pb2.Allocation(
        name="estates/acme/pools/west/allocations/01J",
        product="products/enc",
        node="estates/acme/nodes/n1",
        quantity=1,
        consumer=hostile,
        user=hostile,
        host=hostile,
        end_reason=hostile,
        sessions=[hostile],
    )


@pytest.mark.parametrize("terminal", [False, True], ids=["a pipe", "a terminal"])
@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
def test_tables_and_blocks_show_what_others_wrote_as_text(
    poolkeeper: Command, daemon: CannedDaemon, request: pytest.FixtureRequest, hostile: str, *, terminal: bool
) -> None:
    if terminal:
        request.getfixturevalue("at_a_terminal")
    daemon.answers["ListAllocations"] = pb.ListPoolAllocationsResponse(allocations=[allocation(hostile)])
    daemon.answers["GetAllocation"] = allocation(hostile)
    for words, lines in ((("list", "acme/west"), 2), (("show", "acme/west/01J"), 9)):
        shown = poolkeeper("allocation", *words)
        assert (shown.status, shown.err) == (0, "")
        text = text_of(shown.out)
        assert len(text.splitlines()) == lines
        if hostile in (HOSTILE[name] for name in PRINTABLE):
            assert hostile in text


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
def test_json_is_exact_and_moves_no_cursor(poolkeeper: Command, daemon: CannedDaemon, hostile: str) -> None:
    odd = f"{hostile} \U000e0041 \x7f Müller \N{GRINNING FACE}"
    daemon.answers["ListAllocations"] = pb.ListPoolAllocationsResponse(allocations=[allocation(odd)])
    listed = poolkeeper("allocation", "list", "acme", "--json")
    assert listed.json["allocations"][0]["consumer"] == odd
    assert listed.out.replace("\n", "").isprintable()
    assert "Müller \N{GRINNING FACE}" in listed.out


@pytest.mark.parametrize("terminal", [False, True], ids=["a pipe", "a terminal"])
@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_daemon_s_refusal_is_text_and_writes_no_line_of_ours(
    poolkeeper: Command, daemon: CannedDaemon, request: pytest.FixtureRequest, hostile: str, *, terminal: bool
) -> None:
    if terminal:
        request.getfixturevalue("at_a_terminal")
    hint = ErrorInfo(reason="NOT_FOUND", domain="poolkeeper", metadata={"hint": hostile, "time": hostile})
    daemon.answers["GetPool"] = Refusal(Code.NOT_FOUND, "NOT_FOUND", f"told {hostile}", (hint,))
    refused = poolkeeper("pool", "show", "acme/west")
    assert (refused.status, refused.out) == (1, "")
    lines = text_of(refused.err).splitlines()
    assert lines[0].startswith("poolkeeper: told ")
    assert [line[:6] for line in lines[1:]] in (["  why:"], ["  why:", "  hint"])


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_denial_and_place_are_text(capsys: pytest.CaptureFixture[str], hostile: str) -> None:
    told = errors.Denied(
        hostile,
        reason=hostile,
        hint=hostile,
        denial=errors.Denial(
            reason=hostile,
            pool=hostile,
            product=hostile,
            needed=1,
            counts=errors.SeatCounts(
                total=1, allocated_automatically=1, allocated_manually=0, quarantined=0, assigned_idle=0, available=0
            ),
            next_free_time=None,
            candidates=(
                errors.RejectedCandidate(
                    licence=hostile, pool=hostile, reason=hostile, count=1, active=1, quarantined=0, detail=hostile
                ),
            ),
            rejections={hostile: 2},
            place=0,
        ),
    )
    for error, lines in ((told, 5), (errors.Denied(hostile, reason=hostile, hint=hostile), 3)):
        screen.tell(*denial.explain(error, status=123).lines())
        assert len(text_of(capsys.readouterr().err).splitlines()) == lines
    queue.Queue(hostile).moved(Place(number=1, estimate=datetime(2030, 1, 1, tzinfo=UTC)))
    assert len(text_of(capsys.readouterr().err).splitlines()) == 1


def test_what_libraries_log_is_told_as_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    screen.speak_warnings()
    logging.getLogger("poolkeeper").warning("no session: %s", "\x1b[2J\u202e")
    assert text_of(capsys.readouterr().err) == "poolkeeper: no session: \ufffd[2J\ufffd\n"


def test_a_terminal_without_the_letters_gets_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="latin-1", write_through=True))
    screen.say("Müller \u65e5\x1b")
    assert raw.getvalue() == b"M\xfcller \\u65e5\\ufffd\n"


def test_an_instant_that_cannot_be_is_no_fault_of_ours(poolkeeper: Command, daemon: CannedDaemon) -> None:
    late = allocation("c")
    late.allocate_time.CopyFrom(Timestamp(seconds=2**62))
    daemon.answers["ListAllocations"] = pb.ListPoolAllocationsResponse(allocations=[late])
    listed = poolkeeper("allocation", "list", "acme")
    assert (listed.status, listed.err) == (0, "")


def test_nothing_is_written_past_the_screen() -> None:
    allowed = {"screen.py"}
    for package in (poolkeeper.cli, poolkeeper_server.cli):
        for path in Path(package.__path__[0]).glob("*.py"):
            if path.name in allowed:
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.Call):
                    continue
                called = ast.unparse(node.func)
                assert called != "print", path
                assert not re.fullmatch(r"sys\.std(out|err)\.(write|writelines|buffer\.write)", called), path
                if called == "Console":
                    words = {word.arg: ast.unparse(word.value) for word in node.keywords}
                    assert words.get("markup") == "False" == words.get("emoji"), path


def test_json_that_is_text_already_is_left_alone() -> None:
    text = json.dumps({"a": ["b", 1]}, indent=2)
    assert screen.exact(text) is text
