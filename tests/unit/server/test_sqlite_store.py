"""The embedded store, when what it does is given up half-way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from poolkeeper_server.domain.commands import Expire, Expired
from poolkeeper_server.services.clock import HostClock, first_mark
from poolkeeper_server.services.ids import new_ids
from poolkeeper_server.storage.migration import migrate
from poolkeeper_server.storage.sqlite import SqliteStore, connect
from tests.inprocess.installation import DrivenTime


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An empty store."""
    path = tmp_path / "store.sqlite"
    migrate(path)
    return path


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    """The store, opened."""
    time = DrivenTime()
    found = SqliteStore(path, HostClock(time, first_mark(time)))
    yield found
    await found.close()


async def commits(store: SqliteStore) -> bool:
    """Whether a transaction goes through."""
    (answer,) = (await store.transact(lambda: [Expire(limit=1)], new_ids)).answers
    return isinstance(answer, Expired)


async def test_a_transaction_that_is_given_up_before_it_began_ends_as_that(path: Path, store: SqliteStore) -> None:
    other = connect(path)
    other.execute("BEGIN IMMEDIATE")
    waiting = asyncio.create_task(commits(store))
    for _ in range(5):
        await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    other.execute("COMMIT")
    other.close()
    assert await commits(store)
