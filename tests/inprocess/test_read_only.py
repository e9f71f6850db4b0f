"""A database that takes no writes for a while, as a standby does: the daemon says so, and goes on by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from poolkeeper.v1 import admin_pb2
from tests.inprocess.installation import DrivenTime, Installation
from tests.inprocess.steps import counts, reason_of
from tests.postgres import Server

PATIENCE = 30.0
CUT = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


@pytest.fixture
async def installation(tmp_path: Path, postgres_server: Server, migrated_template: str) -> AsyncIterator[Installation]:
    found = Installation(tmp_path / "data", DrivenTime(), {"database": postgres_server.new_database(migrated_template)})
    await found.start()
    await found.studio()
    yield found
    await found.stop()


@pytest.mark.invariant("3A-WRITE")
@pytest.mark.behaviour("CC-26")
async def test_while_the_database_is_read_only_the_daemon_says_so_and_takes_no_lease(
    installation: Installation, postgres_server: Server
) -> None:
    node = await installation.node()
    held = await node.check_out()
    name = installation.options["database"].rpartition("/")[2]
    postgres_server.sql(name, f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    postgres_server.sql(name, CUT)
    writability = installation.daemon.writability
    async with asyncio.timeout(PATIENCE):
        while not writability.reason:
            assert await reason_of(node.heartbeat(held)) == "STORE_UNAVAILABLE"
    assert "read-only" in writability.reason
    installation.time.pass_by(3_600)
    assert await counts(installation) == (4, 1, 0, 3)
    postgres_server.sql("postgres", f'ALTER DATABASE "{name}" RESET ALL')
    postgres_server.sql(name, CUT)
    async with asyncio.timeout(PATIENCE):
        # By the ticks' own commits.
        while writability.reason:
            await installation.daemon.housekeeping.tick()
        await node.heartbeat(held)
        found: list[admin_pb2.Alert] = []
        while not found:
            found = (await installation.admin.alerts.ListAlerts(admin_pb2.ListAlertsRequest())).alerts
    assert [one.kind for one in found] == [admin_pb2.ALERT_KIND_STORE_UNWRITABLE]
