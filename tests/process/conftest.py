"""What tests with processes start, and its end."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.process.daemon import Daemon, Office, Processes
from tests.process.host import RIGHT, HostClock


@pytest.fixture
def processes() -> Iterator[Processes]:
    """What the test starts; nothing of it outlives the test."""
    found = Processes()
    yield found
    found.end()


@pytest.fixture
async def daemon(tmp_path: Path, processes: Processes) -> Daemon:
    """A daemon that serves on an empty data directory."""
    found = Daemon(tmp_path / "data", processes)
    await found.start()
    return found


@pytest.fixture
async def office(daemon: Daemon) -> AsyncIterator[Office]:
    """Its admin."""
    async with Office(daemon) as found:
        yield found


@pytest.fixture
def host() -> Iterator[HostClock]:
    """A host whose clock is right until the test sets it."""
    # Not below the tests' own directory, which a database server's user may not enter.
    with tempfile.TemporaryDirectory(prefix="poolkeeper-host-") as directory:
        Path(directory).chmod(0o755)
        clock = HostClock(Path(directory) / "faketime")
        clock.step(RIGHT)
        yield clock


@pytest.fixture
async def daemon_on_host(tmp_path: Path, processes: Processes, host: HostClock) -> Daemon:
    """A daemon on that host."""
    found = Daemon(tmp_path / "data", processes, environment=host.environment)
    await found.start()
    return found
