"""What the reader finds by many names at once."""

from __future__ import annotations

from pathlib import Path

from poolkeeper_server.domain import records as r
from poolkeeper_server.domain.state import State
from poolkeeper_server.storage.embedded import EmbeddedDatabase
from poolkeeper_server.storage.migration import migrate
from poolkeeper_server.storage.sqlite import connect, save
from tests.unit.server.test_saving import ALLOCATION


async def test_what_is_due_is_found_in_more_pools_than_one_statement_names(tmp_path: Path) -> None:
    path = tmp_path / "poolkeeper.sqlite"
    migrate(path)
    due = r.replace(ALLOCATION, state=r.AllocationState.QUARANTINED, quarantine_until=5, ended_at=1)
    state = State()
    state.put(due)
    connection = connect(path)
    save(connection, state)
    connection.close()
    reader = EmbeddedDatabase(path).reader()
    others = [f"pool-{number}" for number in range(2500)]
    found = [
        await reader.due_quarantines(due.estate_id, pools, now)
        for pools, now in (([*others, due.pool_id], 5), ([due.pool_id, *others], 5), ([*others, due.pool_id], 4))
    ]
    await reader.close()
    assert found == [[due], [due], []]
