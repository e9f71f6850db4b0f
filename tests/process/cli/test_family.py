"""Whatever a program under a licence has started ends with it, and with `run`, whoever is killed first."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from poolkeeper.testing import FakeServer
from tests.process.cli.conftest import COMMAND, PATIENCE, PRODUCT, Running, Start, parent_of, process_state, until

#: A program that starts three more, in its own group, in a session of its own, and with no parent any more; each tells
#: its process id and ignores what it is asked.
FAMILY = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
def born(how):
    if os.fork() == 0:
        if how != "group":
            os.setsid()
        if how == "orphan" and os.fork():
            os._exit(0)
        os.write(1, b"%d\\n" % os.getpid())
        while True:
            time.sleep(60)
for how in ("group", "session", "orphan"):
    born(how)
os.write(1, b"%d\\n" % os.getpid())
if sys.stdin.readline() != "end\\n":
    time.sleep(60)
"""
PROGRAM = (sys.executable, "-c", FAMILY)


def started(program: Running) -> list[int]:
    """The process ids of all four."""
    return [int(program.line()) for _ in range(4)]


def running(family: list[int]) -> list[int]:
    """Those that are still there."""
    return [pid for pid in family if process_state(pid) not in {"", "Z", "X"}]


@pytest.mark.invariant("3A-FAMILY")
def test_all_of_it_ends_when_run_is_killed(fake: FakeServer, run: Start) -> None:
    del fake
    program = run("--", *PROGRAM)
    family = started(program)
    program.send(signal.SIGKILL)
    until(lambda: not running(family), "it outlived its licence")


@pytest.mark.invariant("3A-FAMILY")
def test_all_of_it_ends_when_the_process_between_is_killed(fake: FakeServer, run: Start) -> None:
    program = run("--", *PROGRAM)
    family = started(program)
    (last,) = [pid for pid in family if parent_of(parent_of(pid)) == program.process.pid and _leads(pid)]
    os.kill(parent_of(last), signal.SIGKILL)
    assert program.end()[0] == 128 + signal.SIGKILL
    assert not running(family)
    assert fake.available(PRODUCT) == 1


@pytest.mark.invariant("3A-FAMILY")
def test_what_a_script_had_started_before_it_became_run_is_left_alone(
    fake: FakeServer, poolkeeper_script: Start
) -> None:
    program = poolkeeper_script(*PROGRAM)
    other = int(program.line())
    family = started(program)
    (last,) = [pid for pid in family if _leads(pid)]
    os.kill(parent_of(last), signal.SIGKILL)
    assert program.end()[0] == 128 + signal.SIGKILL
    assert not running(family)
    assert running([other])
    os.kill(other, signal.SIGKILL)
    assert fake.available(PRODUCT) == 1


@pytest.fixture
def poolkeeper_script(tmp_path: Path) -> Iterator[Start]:
    """Starts `run` by a script that has a process in the background."""
    processes: list[subprocess.Popen[str]] = []

    def start(*words: str) -> Running:
        script = 'sleep 60 >/dev/null 2>&1 & echo $!; exec "$@"'
        process = subprocess.Popen(
            ["sh", "-c", script, "sh", *COMMAND, "run", "--product", PRODUCT, "--", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"POOLKEEPER_IDENTITY": str(tmp_path / "identity")},
        )
        processes.append(process)
        return Running(process)

    yield start
    for process in processes:
        process.kill()
        process.communicate(timeout=PATIENCE)


def _leads(pid: int) -> bool:
    return os.getpgid(pid) == pid and os.getsid(pid) != pid


@pytest.mark.invariant("3A-FAMILY")
def test_nothing_that_it_left_behind_outlives_the_seat(fake: FakeServer, run: Start) -> None:
    program = run("--", *PROGRAM)
    family = started(program)
    assert program.end("end\n")[0] == 0
    assert not running(family)
    assert fake.available(PRODUCT) == 1


@pytest.mark.invariant("3A-FAMILY")
def test_a_lost_licence_pauses_and_ends_all_of_it(fake: FakeServer, run: Start) -> None:
    program = run("--on-lost", "pause", "--", *PROGRAM)
    family = started(program)
    fake.stop()
    until(lambda: [process_state(pid) for pid in family] == ["T"] * 4, "it was not paused as a whole")
    fake.start()
    until(lambda: "T" not in map(process_state, family), "it did not go on as a whole")
    program.send(signal.SIGKILL)
    until(lambda: not running(family), "it outlived its licence")


@pytest.mark.invariant("3A-FAMILY")
def test_as_the_first_process_of_a_container_it_leaves_no_zombie(fake: FakeServer, tmp_path: Path) -> None:
    del fake
    unshare = shutil.which("unshare")
    inside = [str(unshare), "--pid", "--fork", "--mount-proc", "--kill-child"]
    if unshare is None or subprocess.run([*inside, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not make a namespace of processes")
    orphans = "for n in 1 2 3; do (sleep 0.01 &); done; sleep 0.5; grep -l '^State:.Z' /proc/[0-9]*/status; echo $PPID"
    done = subprocess.run(
        [*inside, *COMMAND, "run", "--product", PRODUCT, "--", "sh", "-c", orphans],
        env=os.environ | {"POOLKEEPER_IDENTITY": str(tmp_path / "identity")},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr
