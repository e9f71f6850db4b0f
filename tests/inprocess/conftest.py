"""A daemon for each test, on each of the stores."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from poolkeeper_server.storage.embedded import EmbeddedDatabase
from tests.inprocess.installation import DrivenTime, Installation
from tests.inprocess.restoring import Backups
from tests.postgres import Server


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database file that has the schema and nothing in it; making it anew would be half of many a test."""
    path = tmp_path_factory.mktemp("schema") / "poolkeeper.sqlite"
    assert asyncio.run(EmbeddedDatabase(path).migrate())
    return path


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """The options of a daemon on an empty store, whose data directory is tmp_path / "data"."""
    if request.param == "postgres":
        server: Server = request.getfixturevalue("postgres_server")
        return {"database": server.new_database(request.getfixturevalue("migrated_template"))}
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    shutil.copy(request.getfixturevalue("migrated_file"), data)
    return {}


@pytest.fixture
async def installation(tmp_path: Path, store: dict[str, Any]) -> AsyncIterator[Installation]:
    """A daemon on an empty store, whose time stands until the test moves it."""
    found = Installation(tmp_path / "data", DrivenTime(), store)
    await found.start()
    yield found
    await found.stop()


@pytest.fixture
def backups(request: pytest.FixtureRequest, installation: Installation) -> Backups:
    """Copies of that daemon's store, to be put back."""
    server = request.getfixturevalue("postgres_server") if "database" in installation.options else None
    return Backups(installation, server)
