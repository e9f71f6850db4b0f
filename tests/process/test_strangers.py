"""What strangers send, in small: the daemon holds little of it, ends what is silent, and serves others meanwhile.

`tests/attacks` has the same in large, with figures.
"""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import ClassVar

import pytest

from tests.process.attacks import memory
from tests.process.daemon import COMMAND, REPOSITORY, Daemon, Office, Processes, eventually
from tests.process.stranger import ATTACKS, Line, Tally

SECONDS = 2.0
#: Megabytes: what a daemon has at rest is about 125.
MOST_MEMORY = 250
#: What nobody has to do with another: each alone took a daemon without bounds far beyond that.
IN_MEMORY = ("reset-streams", "open-calls", "watched-health", "large-messages")
FILES = 700


class FewFiles(Daemon):
    """A daemon that is given few open files, as shells do, and may have some more."""

    command_line: ClassVar[tuple[str, ...]] = ("prlimit", f"--nofile=400:{FILES}", *COMMAND)


@pytest.fixture
async def crowded(tmp_path: Path, processes: Processes) -> AsyncIterator[Office]:
    daemon = FewFiles(tmp_path / "data", processes)
    await daemon.start()
    async with Office(daemon) as found:
        yield found


async def attacked(name: str, target: str) -> None:
    """Has a stranger do that for a while, from a process of its own."""
    words = [sys.executable, "-m", "tests.process.stranger", name, target, str(SECONDS)]
    await asyncio.to_thread(subprocess.run, words, cwd=REPOSITORY, capture_output=True, timeout=60, check=True)


def open_files(daemon: Daemon) -> int:
    """How many it has."""
    return sum(1 for _ in Path(f"/proc/{daemon.process.pid}/fd").iterdir())


async def healthy(daemon: Daemon) -> bool:
    """Whether its HTTP port answers."""
    host, _, port = str(daemon.endpoint["http"]).rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    answered = (await reader.read()).startswith(b"HTTP/1.1 200")
    writer.close()
    return answered


@pytest.mark.behaviour("CC-38")
async def test_strangers_use_up_no_memory_and_a_node_is_served_meanwhile(office: Office) -> None:
    await office.studio(3)
    node = await office.node("steady")
    for name in IN_MEMORY:
        attack = asyncio.ensure_future(attacked(name, office.daemon.address))
        while not attack.done():
            held = await node.check_out()
            await node.check_in(held.allocation.name)
            await node.heartbeat()
            await asyncio.wait([attack], timeout=0.05)
        await attack
        assert memory(office.daemon.process.pid, "VmHWM") < MOST_MEMORY, name


@pytest.mark.behaviour("CC-38")
async def test_connections_that_say_nothing_leave_files_for_others_and_are_ended(crowded: Office) -> None:
    daemon = crowded.daemon
    assert resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE) == (FILES, FILES)
    await crowded.studio(1)
    node = await crowded.node("steady")
    tally = Tally()
    lines = [Line(ATTACKS["silence"], ("127.0.0.1", int(daemon.port)), tally) for _ in range(FILES)]
    assert tally.opened == FILES
    web, _, port = str(daemon.endpoint["http"]).rpartition(":")
    lines += [Line(ATTACKS["slow-http"], (web, int(port)), tally) for _ in range(FILES)]
    # Those that know each other already go on, and so does whoever asks how the daemon is.
    held = await node.check_out()
    await node.check_in(held.allocation.name)
    assert await healthy(daemon)
    assert (await daemon.command("estate", "list")).status == 0
    assert open_files(daemon) < FILES
    await eventually(lambda: not any(line.listen() for line in lines), "the end of those that are silent", within=20.0)
    assert (await daemon.command("estate", "list")).status == 0
    for line in lines:
        line.socket.close()
