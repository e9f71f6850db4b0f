"""The benchmark's stores that do less take the daemon's place, and what is not decided is written all the same."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from poolkeeper_server.domain import commands as c
from poolkeeper_server.domain import records as r
from poolkeeper_server.domain.state import State
from poolkeeper_server.services.clock import HostClock, first_mark
from poolkeeper_server.services.ids import new_ids
from poolkeeper_server.storage import embedded
from poolkeeper_server.storage.embedded import EmbeddedDatabase
from poolkeeper_server.storage.migration import migrate
from poolkeeper_server.storage.schema import NAMES
from poolkeeper_server.storage.sqlite import SqliteStore, connect, save
from tests.bench.undecided import Undecided
from tests.bench.unstored import Unstored
from tests.inprocess.installation import DrivenTime
from tests.records import HOLDING, LICENCE, POOL, PRODUCT, SESSION

SESSIONS = ("s1", "s2", "s3")
ROUNDS = 8


def stock() -> State:
    """A pool with seats enough, and sessions that draw on it."""
    state = State()
    for record in (PRODUCT, LICENCE, POOL, HOLDING):
        state.put(record)
    for session in SESSIONS:
        state.put(r.replace(SESSION, session_id=session, node_id=f"studio-{session}"))
    return state


def check_out(session: str, request_id: str) -> c.CheckOut:
    return c.CheckOut(
        estate_id="acme",
        caller=f"studio-{session}",
        request_id=request_id,
        digest=sha256(request_id.encode()).digest(),
        session_id=session,
        product_id="encoder",
    )


def check_in(asked: c.CheckOut, answer: c.Answer) -> c.CheckIn:
    assert isinstance(answer, c.Granted)
    return c.CheckIn(
        estate_id="acme",
        caller=asked.caller,
        request_id=f"{asked.request_id}-back",
        digest=asked.digest,
        session_id=asked.session_id,
        allocation_id=answer.allocation.allocation_id,
        reason=r.CheckInReason.ENDED,
    )


async def rows_after(kind: type[SqliteStore], path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many rows each table has after a load on a daemon's store that was replaced by this kind."""
    migrate(path)
    connection = connect(path)
    connection.execute("BEGIN")
    save(connection, stock())
    connection.execute("COMMIT")
    time = DrivenTime()
    monkeypatch.setattr(embedded, "SqliteStore", kind)
    store = EmbeddedDatabase(path).store(HostClock(time, first_mark(time)))
    assert type(store) is kind
    for number in range(ROUNDS):
        asked = [check_out(session, f"{number:08}-{session}") for session in SESSIONS]
        batch = [*asked, c.Heartbeat(estate_id="acme", session_id=SESSIONS[0], count=0, digest=0)]
        *granted, renewed = (await store.transact(lambda batch=batch: batch, new_ids)).answers  # type: ignore[misc] # A default.
        assert isinstance(renewed, c.Renewed)
        back = [check_in(one, answer) for one, answer in zip(asked, granted, strict=True)]
        await store.transact(lambda back=back: back, new_ids)  # type: ignore[misc] # A default.
    await store.close()
    found = {name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in NAMES.values()}  # noqa: S608 - names of our own schema
    connection.close()
    return found


async def test_what_is_not_decided_is_written_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decided = await rows_after(SqliteStore, tmp_path / "decided.sqlite", monkeypatch)
    undecided = await rows_after(Undecided, tmp_path / "undecided.sqlite", monkeypatch)
    assert decided["allocations"] == ROUNDS * len(SESSIONS)
    assert undecided == decided


async def test_what_is_not_stored_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unstored = await rows_after(Unstored, tmp_path / "unstored.sqlite", monkeypatch)
    assert 0 < unstored["allocations"] <= len(SESSIONS)
