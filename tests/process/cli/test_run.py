import signal
import sys
import time
from pathlib import Path

import pytest

from poolkeeper.testing import FakeServer
from tests.process.cli.conftest import LEASE, PRODUCT, Start, process_state, until

PYTHON = (sys.executable, "-u", "-c")
# Says when it is ready, names each signal it gets, and ends on the word that it reads.
LISTENER = """
import os, signal, sys
def told(number, frame):
    print(signal.Signals(number).name)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, told)
print("ready", os.getpid())
for line in sys.stdin:
    print("heard", line.strip())
sys.exit(9)
"""


def test_the_programs_status_is_the_commands(fake: FakeServer, run: Start) -> None:
    assert run("--", "sh", "-c", "exit 7").end()[0] == 7
    assert run("--", "true").end()[0] == 0
    assert fake.available(PRODUCT) == 1


def test_a_program_that_a_signal_ended_is_128_and_its_number(fake: FakeServer, run: Start) -> None:
    assert run("--", "sh", "-c", "kill -9 $$").end()[0] == 137
    assert run("--", "sh", "-c", "kill -TERM $$").end()[0] == 143
    assert fake.available(PRODUCT) == 1


def test_input_and_output_are_the_programs_own(fake: FakeServer, run: Start) -> None:
    del fake
    assert run("--", "cat").end("one\ntwo\n") == (0, "one\ntwo\n", "")
    status, out, err = run("--", "sh", "-c", "echo out; echo err >&2").end()
    assert (status, out, err) == (0, "out\n", "err\n")


def test_the_program_holds_the_seat_and_knows_its_name(fake: FakeServer, run: Start) -> None:
    program = run("--", "sh", "-c", "echo $POOLKEEPER_ALLOCATION; read -r word")
    assert program.line().startswith("estates/acme/pools/west/allocations/")
    assert fake.available(PRODUCT) == 0
    assert program.end("\n")[0] == 0
    assert fake.available(PRODUCT) == 1


def test_options_of_the_program_are_not_ours(fake: FakeServer, run: Start) -> None:
    del fake
    assert run("--", "echo", "--help", "--product", "other", "--", "-x").end()[1] == "--help --product other -- -x\n"


def test_a_program_that_is_not_there_or_cannot_be_executed(fake: FakeServer, run: Start) -> None:
    status, _, err = run("--", "/nowhere/at/all").end()
    assert status == 127
    assert "/nowhere/at/all: not found" in err
    assert run("--", "/etc/passwd").end()[0] == 126
    assert fake.available(PRODUCT) == 1


@pytest.mark.behaviour("CC-17")
def test_denied_is_123_with_every_reason(fake: FakeServer, run: Start) -> None:
    holder = run("--", "sh", "-c", "echo ready; read -r word")
    assert holder.line() == "ready"
    status, out, err = run("--", "echo", "never").end()
    assert (status, out) == (123, "")
    assert "NO_SEAT_AVAILABLE in acme/west: 1 seat was needed, 0 of 1 free (1 allocated" in err
    assert fake.available(PRODUCT) == 0
    assert holder.end("\n")[0] == 0


def test_a_machine_that_is_not_enrolled_is_125(poolkeeper: Start, tmp_path: Path) -> None:
    status, out, err = poolkeeper(
        "run", "--product", PRODUCT, "--identity", str(tmp_path / "none"), "--", "echo", "never"
    ).end()
    assert (status, out) == (125, "")
    assert "no enrolled node" in err


def test_wrong_usage_is_125(poolkeeper: Start) -> None:
    assert poolkeeper("run", "--", "true").end()[0] == 125


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"])
def test_signals_reach_the_program_once(fake: FakeServer, run: Start, name: str) -> None:
    program = run("--", *PYTHON, LISTENER)
    assert program.line().startswith("ready")
    program.send(signal.Signals[name])
    assert program.line() == name
    assert program.end("again\n") == (9, "heard again\n", "")
    assert fake.available(PRODUCT) == 1


def test_a_program_that_a_forwarded_signal_ends(fake: FakeServer, run: Start) -> None:
    program = run("--", "sh", "-c", "echo ready; exec tail -f /dev/null")
    assert program.line() == "ready"
    program.send(signal.SIGTERM)
    assert program.end()[0] == 143
    assert fake.available(PRODUCT) == 1


def test_the_program_ends_with_a_wrapper_that_is_killed(fake: FakeServer, run: Start) -> None:
    del fake
    program = run("--", *PYTHON, LISTENER)
    pid = int(program.line().split()[1])
    program.send(signal.SIGKILL)
    # The program holds the pipe open for as long as it lives.
    assert program.line() == ""
    until(lambda: process_state(pid) in {"", "Z"}, "the program outlived its licence")


def test_a_wrapper_killed_before_it_has_a_seat_leaves_nothing(fake: FakeServer, run: Start) -> None:
    holder = run("--", "sh", "-c", "echo ready; read -r word")
    assert holder.line() == "ready"
    waiting = run("--wait", "10m", "--", "echo", "never")
    until(lambda: fake.waiting == 1, "nobody waits")
    waiting.send(signal.SIGKILL)
    assert waiting.line() == ""
    assert holder.end("\n")[0] == 0


def test_who_waits_is_served_when_the_seat_comes_free(fake: FakeServer, run: Start) -> None:
    holder = run("--", "sh", "-c", "echo ready; read -r word")
    assert holder.line() == "ready"
    waiting = run("--wait", "10m", "--", "echo", "at last")
    assert waiting.error_line() == f"poolkeeper: waiting for {PRODUCT}, place 1; nothing tells when a seat comes free"
    assert holder.end("\n")[0] == 0
    assert waiting.end()[:2] == (0, "at last\n")
    assert fake.available(PRODUCT) == 1


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_who_waits_can_be_interrupted(fake: FakeServer, run: Start, name: str, status: int) -> None:
    holder = run("--", "sh", "-c", "echo ready; read -r word")
    assert holder.line() == "ready"
    waiting = run("--wait", "10m", "--", "echo", "never")
    until(lambda: fake.waiting == 1, "nobody waits")
    waiting.send(signal.Signals[name])
    assert waiting.end()[:2] == (status, "")
    until(lambda: fake.waiting == 0, "it waits on")
    assert holder.end("\n")[0] == 0


def test_a_revoked_licence_stops_the_program_first_and_frees_the_seat_then(fake: FakeServer, run: Start) -> None:
    script = "import signal, sys, os\nsignal.signal(signal.SIGTERM, lambda *_: print('tidying'))\n"
    script += "print(os.environ['POOLKEEPER_ALLOCATION'])\nfor line in sys.stdin: sys.exit(0)"
    program = run("--", *PYTHON, script)
    fake.revoke(program.line())
    assert program.line() == "tidying"
    assert fake.available(PRODUCT) == 0
    status, _, err = program.end("\n")
    assert status == 124
    assert "licence lost" in err
    assert fake.available(PRODUCT) == 1


def test_a_program_that_does_not_stop_is_killed_before_the_promise_ends(fake: FakeServer, run: Start) -> None:
    script = "import signal, sys\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint(os.getpid())\nsys.stdin.read()"
    program = run("--", *PYTHON, f"import os\n{script}")
    pid = int(program.line())
    fake.stop()
    silent_since = time.monotonic()
    until(lambda: process_state(pid) in {"", "Z"}, "it was not killed")
    assert time.monotonic() - silent_since < LEASE
    assert program.end()[0] == 124


def test_a_paused_program_goes_on_when_the_licence_is_back(fake: FakeServer, run: Start) -> None:
    program = run("--on-lost", "pause", "--", *PYTHON, LISTENER)
    pid = int(program.line().split()[1])
    fake.stop()
    until(lambda: process_state(pid) == "T", "it was not paused")
    fake.start()
    until(lambda: process_state(pid) == "S", "it did not go on")
    status, out, err = program.end("hello\n")
    assert (status, out) == (9, "heard hello\n")
    assert "paused" in err
    assert "goes on" in err


def test_a_paused_program_can_be_ended(fake: FakeServer, run: Start) -> None:
    program = run("--on-lost", "pause", "--", "sh", "-c", "echo $$; exec tail -f /dev/null")
    pid = int(program.line())
    fake.stop()
    until(lambda: process_state(pid) == "T", "it was not paused")
    program.send(signal.SIGTERM)
    assert program.end()[0] == 143


def test_a_warning_leaves_the_program_alone(fake: FakeServer, run: Start) -> None:
    program = run("--on-lost", "warn", "--", *PYTHON, LISTENER)
    program.line()
    fake.stop()
    assert "licence lost" in program.error_line()
    fake.start()
    assert "licence is back" in program.error_line()
    assert program.end("hello\n")[:2] == (9, "heard hello\n")


def test_what_a_stopped_program_started_is_stopped_with_it(fake: FakeServer, run: Start) -> None:
    program = run("--", "sh", "-c", "exec 3<&0; (trap '' TERM; echo $POOLKEEPER_ALLOCATION; cat <&3 >/dev/null) & wait")
    fake.revoke(program.line())
    assert program.line() == ""
    assert program.end()[0] == 124


def test_an_installed_licence_is_returned_too(fake: FakeServer, poolkeeper: Start) -> None:
    fake.add_product("player", seats=1, installed=True)
    assert poolkeeper("run", "--product", "player", "--", "true").end()[0] == 0
    assert fake.available("player") == 1


def test_what_was_ignored_stays_ignored(fake: FakeServer, poolkeeper: Start) -> None:
    del fake
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        program = poolkeeper("run", "--product", PRODUCT, "--", "sh", "-c", "echo ready; read -r word; exit 5")
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    assert program.line() == "ready"
    program.send(signal.SIGHUP)
    assert program.end("\n")[0] == 5
