"""What a person at a terminal sees: a shell with job control on a pseudo-terminal, and `poolkeeper run` in it."""

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from poolkeeper.testing import FakeServer
from tests.process.cli.conftest import COMMAND, PATIENCE, PRODUCT, parent_of, process_state, until

pytestmark = pytest.mark.skipif(shutil.which("setsid") is None, reason="needs util-linux's setsid")

# Counts the interrupts that it gets, and tells them when it reads a line.
COUNTER = """
import os, signal, sys
count = 0
def told(number, frame):
    global count
    count += 1
    # Not print: the signal may have come in the middle of one.
    os.write(1, f"interrupted {count}\\n".encode())
signal.signal(signal.SIGINT, told)
print("ready", os.getpid(), flush=True)
for line in sys.stdin:
    print("heard", line.strip(), "after", count, flush=True)
    if line.strip() == "end":
        sys.exit(9)
"""


@dataclass
class Shell:
    """An interactive bash on a pseudo-terminal."""

    terminal: int
    process: subprocess.Popen[bytes]
    _seen: str = field(default="")

    def type(self, text: str) -> None:
        os.write(self.terminal, text.encode())

    def answer(self, command: str) -> str:
        """What the shell says to a command."""
        self.type(f"{command}\n")
        self.until(command)
        return self.until(r"(?s)(.*?)prompt> ")

    def until(self, pattern: str) -> str:
        """What the first group of the pattern matches, once it was shown."""
        end = time.monotonic() + PATIENCE
        while (found := re.search(pattern, self._seen)) is None:
            left = end - time.monotonic()
            assert left > 0, f"{pattern!r} does not show in {self._seen!r}"
            if select.select([self.terminal], [], [], left)[0]:
                self._seen += os.read(self.terminal, 65536).decode(errors="replace")
        self._seen = self._seen[found.end() :]
        return found.group(1) if found.groups() else found.group()


@pytest.fixture
def shell(fake: FakeServer, tmp_path: Path) -> Iterator[Shell]:
    del fake
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        ["setsid", "--ctty", "bash", "--norc", "--noprofile", "-i"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=os.environ
        | {
            "POOLKEEPER_IDENTITY": str(tmp_path / "identity"),
            "PS1": "prompt> ",
            "COUNTER": COUNTER,
            "PYTHON": sys.executable,
            "RUN": " ".join((*COMMAND, "run", "--product", PRODUCT)),
            "TERM": "dumb",
            "HISTFILE": "",
        },
    )
    os.close(theirs)
    shell = Shell(ours, process)
    shell.until("prompt> ")
    yield shell
    process.send_signal(signal.SIGHUP)
    process.kill()
    process.wait(PATIENCE)
    os.close(ours)


def test_ctrl_c_reaches_the_program_once(shell: Shell) -> None:
    shell.type('$RUN -- $PYTHON -c "$COUNTER"; echo status $?\n')
    shell.until(r"ready \d+")
    shell.type("\x03")
    shell.until("interrupted 1")
    shell.type("hello\n")
    assert shell.until(r"heard hello after (\d)") == "1"
    shell.type("end\n")
    assert shell.until(r"status (\d+)\r\n") == "9"


def test_ctrl_c_reaches_a_program_in_a_pipeline_once(shell: Shell) -> None:
    shell.type('$RUN -- $PYTHON -c "$COUNTER" | cat; echo status ${PIPESTATUS[0]}\n')
    shell.until(r"ready \d+")
    # It has been reading, so the terminal was lent to it although its output goes elsewhere.
    shell.type("hello\n")
    assert shell.until(r"heard hello after (\d)") == "0"
    shell.type("\x03")
    shell.until("interrupted 1")
    shell.type("end\n")
    assert shell.until(r"heard end after (\d)") == "1"
    assert shell.until(r"status (\d+)\r\n") == "9"


def test_ctrl_z_stops_it_and_fg_goes_on(shell: Shell) -> None:
    shell.type('$RUN -- $PYTHON -c "$COUNTER"; echo status $?\n')
    shell.until(r"ready \d+")
    shell.type("\x1a")
    shell.until("Stopped")
    shell.until("prompt> ")
    shell.type("fg\n")
    shell.type("hello\n")
    shell.until("heard hello after 0")
    shell.type("\x03")
    shell.until("interrupted 1")
    shell.type("end\n")
    shell.until("heard end after 1")
    shell.until("prompt> ")


def test_a_program_in_the_background_stops_when_it_wants_the_terminal(shell: Shell) -> None:
    shell.type('$RUN -- $PYTHON -c "$COUNTER" &\n')
    program = int(shell.until(r"ready (\d+)"))
    until(lambda: process_state(parent_of(parent_of(program))) == "T", "it was not stopped")
    # bash may look at what was typed before it looks after its children.
    until(lambda: "Stopped" in shell.answer("jobs"), "the shell does not know that it was stopped")
    shell.type("fg\n")
    shell.type("end\n")
    shell.until("heard end after 0")


def test_the_shell_has_its_terminal_back_afterwards(shell: Shell) -> None:
    shell.type("bash --norc --noprofile -c '$RUN -- true; read -r line; echo got $line'\n")
    shell.type("something\n")
    shell.until("got something")


def test_who_waits_sees_its_place_on_one_line(shell: Shell, fake: FakeServer) -> None:
    shell.type("$RUN -- sh -c 'echo ready $$; exec tail -f /dev/null' &\n")
    shell.until(r"ready \d+")
    shell.type("$RUN --wait 10m -- echo at last; echo status $?\n")
    shell.until(f"waiting for {PRODUCT}, place 1")
    fake.add_product(PRODUCT, seats=1)
    shell.until("at last")
    shell.until("status 0")
    shell.type("kill %1\n")


def test_ctrl_c_ends_the_waiting(shell: Shell) -> None:
    shell.type("$RUN -- sh -c 'echo ready $$; exec tail -f /dev/null' &\n")
    shell.until(r"ready \d+")
    shell.type("$RUN --wait 10m -- echo never; echo status $?\n")
    shell.until("place 1")
    shell.type("\x03")
    shell.until(r"prompt> ")
    shell.type("kill %1\n")
