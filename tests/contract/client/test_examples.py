"""The README's first examples, run as they stand against a real daemon."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.client.real import RealDaemon

SYNC = """
import poolkeeper

with poolkeeper.Client() as client, client.check_out("encoder-1x1"):
    print("encoding")
"""

ASYNC = """
import asyncio
import poolkeeper

async def main():
    async with poolkeeper.AsyncClient() as client, await client.check_out("encoder-1x1"):
        print("encoding")

asyncio.run(main())
"""

DENIED = """
import poolkeeper

with poolkeeper.Client() as client:
    try:
        client.check_out("encoder-1x1", quantity=3)
    except poolkeeper.Denied as denied:
        print(denied.reason, denied.denial.counts.available, "of", denied.denial.counts.total)
"""

STOPPING = """
import threading
import poolkeeper

stop = threading.Event()

with poolkeeper.Client() as client:
    client.check_out("encoder-1x1", on_lost=lambda seat, error: stop.set())
    while not stop.is_set():
        print("encoding")
        break  # when the work is done
"""


@pytest.fixture
def served(daemon: RealDaemon) -> RealDaemon:
    daemon.add_product("encoder-1x1", seats=2)
    return daemon


@pytest.mark.parametrize(
    ("program", "output"),
    [(SYNC, "encoding\n"), (ASYNC, "encoding\n"), (DENIED, "NO_SEAT_AVAILABLE 2 of 2\n"), (STOPPING, "encoding\n")],
    ids=["sync", "async", "denied", "stopping"],
)
def test_the_examples_do_what_they_say(
    served: RealDaemon, node: Path, monkeypatch: pytest.MonkeyPatch, program: str, output: str
) -> None:
    monkeypatch.setenv("POOLKEEPER_IDENTITY", str(node))
    # Warnings are errors here as in the tests: nothing may be left unclosed or never awaited.
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout, done.stderr, done.returncode) == (output, "", 0)
    assert served.available("encoder-1x1") == 2
