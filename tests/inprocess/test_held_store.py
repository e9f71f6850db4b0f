"""A PostgreSQL store that is replaced while a daemon has lost its connection: the daemon does not go on with it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from poolkeeper_server.storage.postgres.copying import PostgresSource, new_database
from poolkeeper_server.storage.store import StoreRefused
from tests.inprocess.installation import DrivenTime, Installation
from tests.inprocess.steps import reason_of
from tests.postgres import Server

CUT = (
    "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND database = "
    "(SELECT oid FROM pg_database WHERE datname = current_database())"
)


@pytest.fixture
async def installation(tmp_path: Path, postgres_server: Server, migrated_template: str) -> AsyncIterator[Installation]:
    found = Installation(tmp_path / "data", DrivenTime(), {"database": postgres_server.new_database(migrated_template)})
    await found.start()
    await found.studio()
    yield found
    await found.stop()


async def test_a_daemon_waits_for_the_end_of_a_restore_and_goes_on_with_its_own_store(
    installation: Installation, postgres_server: Server
) -> None:
    url = installation.options["database"]
    node = await installation.node()
    with pytest.raises(StoreRefused, match="1 daemon or backup works on it"):
        async with new_database(url, replace=True):
            pass
    postgres_server.sql(url.rpartition("/")[2], CUT)
    async with PostgresSource(url).alone():
        for _ in range(2):
            assert await reason_of(node.check_out()) == "STORE_UNAVAILABLE"
    assert (await node.check_out()).quantity == 1


async def test_a_daemon_does_not_go_on_with_another_s_store(
    installation: Installation, postgres_server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    url = installation.options["database"]
    node = await installation.node()
    name = url.rpartition("/")[2]
    postgres_server.sql(name, CUT)
    async with new_database(url, replace=True):
        pass
    assert await reason_of(node.check_out()) == "STORE_UNAVAILABLE"
    assert "The database is empty" in capsys.readouterr().out
    columns = "id, epoch, lease, civil, reference, boot_id, boot_time, frozen, secrets_check"
    postgres_server.sql(name, f"INSERT INTO marks ({columns}) VALUES (1, 1, 0, 0, 0, '', 0, '', 'another')")  # noqa: S608 - nobody else's words
    assert await reason_of(node.heartbeat()) == "STORE_UNAVAILABLE"
    assert "it is now one with other secrets" in capsys.readouterr().out
    assert postgres_server.sql(name, "SELECT lease, secrets_check FROM marks") == "0|another"
