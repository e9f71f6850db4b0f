"""A standby that was promoted may lack what was answered last; the daemon notices by itself."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from poolkeeper.v1 import admin_pb2
from tests.inprocess.installation import DrivenTime, Installation, NodeClient
from tests.inprocess.steps import SHORT, counts, reason_of
from tests.inprocess.test_restore import gone, show, studio, verified
from tests.postgres import Server, serving


@pytest.fixture
def primary() -> Iterator[Server]:
    # What was answered must be in the copy.
    with serving(fsync="on", synchronous_commit="on") as server:
        yield server


@pytest.fixture
async def shared(tmp_path: Path, primary: Server) -> AsyncIterator[Installation]:
    found = Installation(tmp_path / "data", DrivenTime(), {"database": primary.new_database()})
    await found.start()
    yield found
    await found.stop()


async def answered(installation: Installation, node: NodeClient) -> None:
    """Returns when the daemon has found the database again."""
    for _ in range(100):
        await installation.daemon.housekeeping.tick()
        if await node.heartbeat() is not None:
            return
        await asyncio.sleep(0)


async def epochs(installation: Installation) -> list[str]:
    listed = await installation.admin.alerts.ListAlerts(admin_pb2.ListAlertsRequest())
    return [alert.message for alert in listed.alerts if alert.kind == admin_pb2.ALERT_KIND_EPOCH_BEGUN]


@pytest.mark.behaviour("CC-11")
@pytest.mark.behaviour("CC-16")
async def test_a_promoted_standby_that_lacks_a_grant_gives_nobody_its_seat(
    shared: Installation, primary: Server
) -> None:
    await studio(shared, 1, **SHORT)
    node, other = await shared.node("a"), await shared.node("b")
    standby = primary.copy()
    held = await node.check_out()
    primary.stop(signal.SIGQUIT)
    standby.start()
    try:
        standby.promote()
        await answered(shared, other)
        assert await reason_of(other.check_out()) == "NO_SEAT_AVAILABLE"
        (message,) = await epochs(shared)
        assert message.startswith("A standby was promoted")
        assert gone(await show(node, held)) == []
        assert await counts(shared) == (1, 1, 0, 0)
        await node.check_in(held.allocation.name)
        for _ in range(9):
            await shared.pass_by(1)
            await other.heartbeat()
        await other.check_out()
        await verified(shared)
        # Once; a daemon that comes later finds the place as it is known.
        await shared.restart()
        assert len(await epochs(shared)) == 1
    finally:
        await shared.stop()
        standby.stop()


@pytest.mark.behaviour("CC-11")
async def test_with_synchronous_replication_a_promotion_changes_nothing(shared: Installation, primary: Server) -> None:
    await studio(shared, 2, **SHORT)
    node = await shared.node()
    held = await node.check_out()
    standby = primary.copy()
    primary.stop(signal.SIGQUIT)
    standby.settings["synchronous_standby_names"] = "pg_receivewal"
    standby.start()
    try:
        standby.promote()
        with standby.followed():
            await answered(shared, node)
            again = await node.check_out()
            assert again.fence.epoch == held.fence.epoch
            assert await epochs(shared) == []
            await shared.stop()
    finally:
        standby.stop()
