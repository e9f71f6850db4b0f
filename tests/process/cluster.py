"""Several daemons on one PostgreSQL database, each a process of its own."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from tests.postgres import Server
from tests.process.daemon import Daemon, Processes

#: As a user would run it: what is committed survives a power cut.
DURABLE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}


@dataclass
class Cluster:
    """The daemons, their database, and the server that it is on."""

    server: Server
    url: str
    daemons: list[Daemon]

    @property
    def addresses(self) -> str:
        """All daemons, as a client is told them."""
        return ",".join(daemon.address for daemon in self.daemons)


def member(processes: Processes, directory: Path, name: str, url: str) -> Daemon:
    """A daemon that is not started yet; all of them share one secrets file."""
    options = ("--database", url, "--secrets", str(directory / "secrets.json"))
    return Daemon(directory / name, processes, options=options)


async def start(server: Server, processes: Processes, directory: Path, count: int, *, url: str = "") -> Cluster:
    """So many daemons on a new database, which they reach at `url` if it is given."""
    database = server.new_database()
    daemons = [member(processes, directory, f"daemon-{number}", url or database) for number in range(count)]
    # The first makes the schema and the secrets; the others may come all at once.
    await daemons[0].start()
    await asyncio.gather(*(daemon.start() for daemon in daemons[1:]))
    return Cluster(server, database, daemons)
