"""The embedded store: what is given up half-way, who else writes, and what it need not ask for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pysqlite3 import dbapi2 as sqlite

from poolkeeper_server.domain import records as r
from poolkeeper_server.domain.commands import CloseSession, Expire, Expired, Heartbeat, Renewed
from poolkeeper_server.domain.refusal import Refusal
from poolkeeper_server.domain.state import State
from poolkeeper_server.services.clock import HostClock, first_mark
from poolkeeper_server.services.ids import new_ids
from poolkeeper_server.storage.loading import GET
from poolkeeper_server.storage.migration import migrate
from poolkeeper_server.storage.sqlite import SqliteStore, connect, save
from poolkeeper_server.storage.store import StoreUnavailable
from tests.inprocess.installation import DrivenTime
from tests.records import POOL, SESSION


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


@pytest.fixture
def session(path: Path) -> None:
    """An open session in the store."""
    state = State()
    state.put(POOL)
    state.put(SESSION)
    connection = connect(path)
    save(connection, state)
    connection.close()


async def heartbeat(store: SqliteStore) -> object:
    """What the session hears."""
    beat = Heartbeat(estate_id="acme", session_id="s1", count=0, digest=0)
    (answer,) = (await store.transact(lambda: [beat], new_ids)).answers
    return answer


@pytest.mark.usefixtures("session")
@pytest.mark.invariant("INV-6")
async def test_what_another_connection_writes_is_seen_by_the_next_transaction(path: Path, store: SqliteStore) -> None:
    assert isinstance(await heartbeat(store), Renewed)
    assert store.kept.answers(GET[r.Session])
    other = connect(path)
    other.execute("UPDATE sessions SET state = 'ENDED', ended_at = 1, end_reason = 'NODE_REVOKED'")
    other.close()
    answer = await heartbeat(store)
    assert isinstance(answer, Refusal)
    assert answer.reason == "NODE_REVOKED"


@pytest.mark.usefixtures("session")
@pytest.mark.invariant("INV-6")
async def test_after_a_commit_of_which_nobody_knows_nothing_is_remembered(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(await heartbeat(store), Renewed)
    commit = store._commit  # noqa: SLF001 - where the disk fails after the last byte shows nowhere else.

    def written_and_failed() -> None:
        commit()
        raise sqlite.OperationalError("disk I/O error")

    with monkeypatch.context() as failing:
        failing.setattr(store, "_commit", written_and_failed)
        with pytest.raises(StoreUnavailable) as unavailable:
            await store.transact(lambda: [CloseSession(estate_id="acme", session_id="s1")], new_ids)
    assert unavailable.value.unknown
    assert isinstance(await heartbeat(store), Refusal)


@pytest.mark.usefixtures("session")
@pytest.mark.invariant("INV-6")
async def test_what_fails_after_the_commit_is_not_told_as_undone(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(await heartbeat(store), Renewed)

    def fail(state: State) -> None:
        raise MemoryError(state)

    with monkeypatch.context() as failing:
        failing.setattr(store.kept, "learn", fail)
        with pytest.raises(StoreUnavailable) as unavailable:
            await store.transact(lambda: [CloseSession(estate_id="acme", session_id="s1")], new_ids)
    assert unavailable.value.unknown
    assert isinstance(await heartbeat(store), Refusal)


@pytest.mark.usefixtures("session")
async def test_what_is_purged_is_known_no_more(store: SqliteStore) -> None:
    await store.transact(lambda: [CloseSession(estate_id="acme", session_id="s1")], new_ids)
    ended = await heartbeat(store)
    assert isinstance(ended, Refusal)
    assert ended.at is not None
    assert await store.purge(2**62, 10) == 1
    gone = await heartbeat(store)
    assert isinstance(gone, Refusal)
    assert gone.at is None


@pytest.mark.usefixtures("session")
async def test_what_was_asked_for_once_is_not_asked_for_again(store: SqliteStore) -> None:
    asked: list[str] = []
    store._connection.set_trace_callback(asked.append)  # noqa: SLF001 - what the database is asked shows nowhere else.
    await heartbeat(store)
    first = sum("FROM wanted" in statement for statement in asked)
    await heartbeat(store)
    assert sum("FROM wanted" in statement for statement in asked) == first > 0


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
