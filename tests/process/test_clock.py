"""The host's clock is stepped under a running daemon and between two runs, with libfaketime."""

from __future__ import annotations

import asyncio
import time

import pytest

from poolkeeper.v1 import admin_pb2
from tests.inprocess.installation import NodeClient, Refused
from tests.process.daemon import PATIENCE, SHORTEST, Daemon, Office, now
from tests.process.host import RIGHT, HostClock

LEASE = SHORTEST["lease_duration"]
DATED = "archive"
STEPS = {"an hour ahead": "+1h", "an hour back": "-1h", "ten years ahead": "+10y", "ten years back": "-10y"}


@pytest.fixture
def daemon(daemon_on_host: Daemon) -> Daemon:
    """A daemon whose civil time the test sets."""
    return daemon_on_host


async def prepare(office: Office) -> NodeClient:
    """A node in a pool with five undated encoders and five archives with dates; its leases are the shortest."""
    await office.admin.products.CreateProduct(admin_pb2.CreateProductRequest(product_id=DATED, title="Archive"))
    await office.studio(30, **SHORTEST)
    await office.licence(30, order="SO-2", product=DATED, valid_from="2010-01-01", valid_until="2090-12-31")
    move = admin_pb2.SeatMove(line="SO-2", count=30)
    await office.admin.pools.MoveSeats(
        admin_pb2.MoveSeatsRequest(source="estates/acme/pools/default", target="estates/acme/pools/west", moves=[move])
    )
    return await office.node("studio-7")


async def clock(office: Office, *, frozen: bool) -> admin_pb2.Clock:
    """The daemon's clock, once it is frozen or runs."""
    end = now() + PATIENCE
    while True:
        found: admin_pb2.Clock = await office.admin.clocks.GetClock(admin_pb2.GetClockRequest())
        if found.frozen is frozen:
            return found
        assert now() < end, found
        await asyncio.sleep(0.02)


async def alerts(office: Office) -> list[str]:
    """What was raised about the clock."""
    found = await office.admin.alerts.ListAlerts(admin_pb2.ListAlertsRequest())
    return [one.message for one in found.alerts if one.kind == admin_pb2.ALERT_KIND_CLOCK_FROZEN]


async def show_frozen(office: Office, node: NodeClient) -> None:
    """New dated grants are refused; undated ones, renewals and returns go on as ever."""
    explained = await clock(office, frozen=True)
    assert "clock accept" in explained.explanation
    with pytest.raises(Refused) as refused:
        await node.check_out(DATED)
    assert refused.value.reason == "CLOCK_FROZEN"
    assert refused.value.hint
    undated = await node.check_out()
    renewed = await node.heartbeat()
    # Neither shorter nor longer than a lease, whatever the date.
    assert LEASE - 0.1 <= renewed.remaining.ToMicroseconds() / 1e6 <= LEASE
    await node.check_in(undated.allocation.name)


async def show_running(office: Office, node: NodeClient) -> None:
    """Dated licences are granted."""
    assert (await clock(office, frozen=False)).explanation == ""
    await node.check_in((await node.check_out(DATED)).allocation.name)


@pytest.mark.behaviour("CC-27")
@pytest.mark.parametrize("step", STEPS)
async def test_a_clock_that_is_set_while_the_daemon_runs(
    office: Office, host: HostClock, daemon: Daemon, step: str
) -> None:
    node = await prepare(office)
    held = [await node.check_out(), await node.check_out(DATED)]
    await show_running(office, node)
    host.step(STEPS[step])
    await show_frozen(office, node)
    (told,) = await alerts(office)
    shown = await daemon.command("clock", "show")
    assert shown.status == 0, shown.err
    assert "FROZEN" in shown.out
    assert ("set ahead by" if "ahead" in step else "set back by") in told
    # It ends by itself when the time is right again.
    host.step(RIGHT)
    await show_running(office, node)
    # Or at an operator's word.
    host.step(STEPS[step])
    await show_frozen(office, node)
    accepted = await daemon.command("clock", "accept")
    assert accepted.status == 0, accepted.err
    await show_running(office, node)
    years = {"+10y": 10, "-10y": -10}.get(STEPS[step], 0)
    after = await clock(office, frozen=False)
    assert abs(after.civil_time.seconds - after.host_time.seconds) < 60
    assert round((after.host_time.seconds - time.time()) / (365.25 * 86_400)) == years
    assert len(await alerts(office)) == 2
    assert await office.held() == {one.allocation.name for one in held}


@pytest.mark.behaviour("CC-27")
@pytest.mark.parametrize("step", STEPS)
async def test_a_clock_that_is_set_between_two_runs(office: Office, host: HostClock, daemon: Daemon, step: str) -> None:
    node = await prepare(office)
    held = [await node.check_out(), await node.check_out(DATED)]
    assert await daemon.stop() == 0
    host.step(STEPS[step])
    await daemon.start(**host.environment)
    await show_frozen(office, node)
    assert len(await alerts(office)) == 1
    assert await office.held() == {one.allocation.name for one in held}
    # The newest record is what counts, also for the run after next.
    await daemon.kill()
    await daemon.start(**host.environment)
    await show_frozen(office, node)
    host.step(RIGHT)
    await show_running(office, node)


@pytest.mark.behaviour("CC-27")
@pytest.mark.behaviour("CC-15")
async def test_a_clock_that_is_set_back_prolongs_no_lease(office: Office, host: HostClock) -> None:
    node = await prepare(office)
    silent = await node.check_out()
    renewed = now()
    host.step("-10y")
    await show_frozen(office, await office.node("studio-8"))
    while silent.allocation.name in await office.held():
        assert now() < renewed + PATIENCE, "the lease does not end"
        await asyncio.sleep(0.02)
    assert now() > renewed + LEASE
    with pytest.raises(Refused) as refused:
        await node.heartbeat()
    assert refused.value.reason == "LEASE_EXPIRED"
