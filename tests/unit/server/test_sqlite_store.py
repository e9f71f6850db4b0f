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


def outcomes(moment: int, callers: int) -> list[tuple[object, ...]]:
    """What was asked by so many callers at once, with ids as the SDK makes them."""
    return [
        (f"{moment:012x}7{caller * 2654435761 % 2**64:019x}", f"node-{caller}", b"d" * 32, "a" * 24, moment)
        for caller in range(callers)
    ]


def test_what_many_callers_ask_at_once_is_written_side_by_side(path: Path) -> None:
    callers = 64
    connection = connect(path)
    insert = "INSERT INTO outcomes (estate_id, request_id, caller, digest, subject, at) VALUES ('acme', ?, ?, ?, ?, ?)"
    for moment in range(200):
        connection.executemany(insert, outcomes(moment, callers))
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.execute("BEGIN")
    connection.executemany(insert, outcomes(200, callers))
    connection.execute("COMMIT")
    (_, pages, _) = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    connection.close()
    assert 0 < pages < callers / 2
