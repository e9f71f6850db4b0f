"""A fake licence server in this process, and `poolkeeper` as a process of its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from poolkeeper.testing import FakeServer
from tests.process.daemon import STARTING

PATIENCE = STARTING
"""Seconds that anything may take here, where whatever is waited for may be a process that comes up."""
LEASE = 2.0
COMMAND = (sys.executable, "-m", "poolkeeper.cli")
PRODUCT = "encoder-1x1"


@dataclass
class Running:
    """A `poolkeeper` process."""

    process: subprocess.Popen[str]

    def line(self) -> str:
        """The next line of its standard output."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def error_line(self) -> str:
        """The next line of its standard error."""
        assert self.process.stderr is not None
        return self.process.stderr.readline().strip()

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self, given: str | None = None) -> tuple[int, str, str]:
        """Exit status, output and errors, once it has ended."""
        out, err = self.process.communicate(given, timeout=PATIENCE)
        return self.process.returncode, out, err


def until(condition: Callable[[], bool], what: str) -> None:
    """Looks again and again for what another process does."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, what
        os.sched_yield()


def process_state(pid: int) -> str:
    """The state letter of a process, as in ps; empty when there is none."""
    return (_stat(pid) or [""])[0]


def parent_of(pid: int) -> int:
    """The process that started another."""
    return int(_stat(pid)[1])


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


Start = Callable[..., Running]


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeServer]:
    """A server with one seat, whose promises are short enough to be waited for."""
    with FakeServer(lease=LEASE) as server:
        server.add_product(PRODUCT, seats=1)
        server.enrol_identity(tmp_path / "identity")
        yield server


@pytest.fixture
def poolkeeper(tmp_path: Path) -> Iterator[Start]:
    """Starts the command with the identity of the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*words: str, **environment: str) -> Running:
        process = subprocess.Popen(
            [*COMMAND, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"POOLKEEPER_IDENTITY": str(tmp_path / "identity")} | environment,
        )
        started.append(process)
        return Running(process)

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=PATIENCE)


@pytest.fixture
def run(poolkeeper: Start) -> Start:
    """Starts a program under a licence; words before -- are options of `run`."""

    def start(*words: str) -> Running:
        return poolkeeper("run", "--product", PRODUCT, *words)

    return start
