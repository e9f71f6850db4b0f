"""A store that is put back as it was, as an operator does it with a backup: what was committed since is gone."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from poolkeeper_server.storage.embedded import EmbeddedDatabase
from poolkeeper_server.storage.postgres.database import PostgresDatabase
from tests.inprocess.installation import Installation, NodeClient
from tests.postgres import Server

_FILE = "poolkeeper.sqlite"
WHY = "The database was restored from a backup."


@dataclass
class Backups:
    """Backups of an installation's store; the installation is stopped for each, and its nodes follow it."""

    installation: Installation
    server: Server | None
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    async def make(self, *nodes: NodeClient) -> str:
        """A copy of the store as it is now."""
        await self.installation.stop()
        if self.server is not None:
            copy = self.server.new_database(self._database()).rpartition("/")[2]
        else:
            copy = f"backup{next(self._numbers)}"
            shutil.copy(self.installation.data / _FILE, self.installation.data / copy)
        await self._start(nodes)
        return copy

    async def put_back(self, copy: str, *nodes: NodeClient, quiet: bool = True) -> int:
        """Starts on a copy, in a new epoch; gives its number."""
        await self.installation.stop()
        civil = self.installation.time.civil_now
        if self.server is not None:
            url = self.server.new_database(copy)
            self.installation.options["database"] = url
            epoch = await PostgresDatabase(url).begin_epoch(civil, WHY, quiet=quiet)
        else:
            path = self.installation.data / _FILE
            for old in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
                old.unlink(missing_ok=True)
            shutil.copy(self.installation.data / copy, path)
            epoch = await EmbeddedDatabase(path).begin_epoch(civil, WHY, quiet=quiet)
        await self._start(nodes)
        return epoch

    def _database(self) -> str:
        return str(self.installation.options["database"]).rpartition("/")[2]

    async def _start(self, nodes: tuple[NodeClient, ...]) -> None:
        await self.installation.start()
        for node in nodes:
            node.channel = self.installation.channel
