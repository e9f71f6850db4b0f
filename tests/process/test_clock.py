"""The clock that counts is stepped under a running daemon and between two runs, with libfaketime."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from poolkeeper.v1 import admin_pb2
from tests.figures import Figures
from tests.inprocess.installation import NodeClient, Refused
from tests.postgres import serving
from tests.process.daemon import PATIENCE, PRODUCT, SHORTEST, Daemon, Office, Processes, now
from tests.process.fleet import FULL, Fleet
from tests.process.history import Asked, Granted
from tests.process.host import RIGHT, HostClock

#: A lease that no test outlives, however busy the machine and however late its heartbeats are, and any step does.
LASTING = {"lease_duration": 1800.0, "heartbeat_interval": 2.0, "margin": 2.36}
LEASE = LASTING["lease_duration"]
#: By how much lease time may have gone on since the last tick, at most, and the tick that ends a lease comes after it.
TICK = 4.0
DATED = "archive"
#: Bytes that clients write down of some hundred events.
MUCH = 15_000
STEPS = {"an hour ahead": "+1h", "an hour back": "-1h", "ten years ahead": "+10y", "ten years back": "-10y"}


@pytest.fixture(params=["the daemon's", "the database server's"])
async def daemon(
    request: pytest.FixtureRequest, tmp_path: Path, processes: Processes, host: HostClock
) -> AsyncIterator[Daemon]:
    """A daemon whose civil time the test sets: by its own host's clock, or by that of its database."""
    with ExitStack() as stack:
        found = Daemon(tmp_path / "data", processes, environment=host.environment)
        if request.param == "the database server's":
            server = stack.enter_context(serving(host.environment))
            found = Daemon(tmp_path / "data", processes, ("--database", server.new_database()))
        await found.start()
        yield found
        # Before its database goes.
        await found.kill()


async def prepare(office: Office, settings: dict[str, float] = LASTING) -> NodeClient:
    """A node in that pool."""
    await furnish(office, seats=30, settings=settings)
    return await office.node("studio-7")


async def furnish(office: Office, *, seats: int, settings: dict[str, float] = LASTING) -> None:
    """A pool with undated encoders and thirty archives with dates."""
    await office.admin.products.CreateProduct(admin_pb2.CreateProductRequest(product_id=DATED, title="Archive"))
    await office.studio(seats, **settings)
    await office.more_seats(30, order="SO-2", product=DATED, valid_from="2010-01-01", valid_until="2090-12-31")


async def clock(office: Office, *, frozen: bool) -> admin_pb2.Clock:
    """The daemon's clock, once it is frozen or runs."""
    end = now() + PATIENCE
    while True:
        found: admin_pb2.Clock = await office.admin.clocks.GetClock(admin_pb2.GetClockRequest())
        if found.frozen is frozen:
            return found
        assert now() < end, found
        await asyncio.sleep(0.02)


async def lived(office: Office) -> float:
    """The daemon's lease time in seconds."""
    found: admin_pb2.Clock = await office.admin.clocks.GetClock(admin_pb2.GetClockRequest())
    return found.lease_time.ToMicroseconds() / 1e6


async def alerts(office: Office) -> list[str]:
    """What was raised about the clock."""
    found = await office.admin.alerts.ListAlerts(admin_pb2.ListAlertsRequest())
    return [one.message for one in found.alerts if one.kind == admin_pb2.ALERT_KIND_CLOCK_FROZEN]


async def show_frozen(office: Office, node: NodeClient, lease: float = LEASE) -> None:
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
    assert lease - 0.1 <= renewed.remaining.ToMicroseconds() / 1e6 <= lease
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
    # How long it was that no daemon wrote anything, a server's clock does not tell.
    ahead = "ahead of the newest record" if daemon.options else "set ahead by"
    assert (ahead if "ahead" in step else "set back by") in told
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
    await daemon.start()
    await show_frozen(office, node)
    assert len(await alerts(office)) == 1
    assert await office.held() == {one.allocation.name for one in held}
    # The newest record is what counts, also for the run after next.
    await daemon.kill()
    await daemon.start()
    await show_frozen(office, node)
    host.step(RIGHT)
    await show_running(office, node)


@pytest.mark.behaviour("CC-27")
@pytest.mark.behaviour("CC-15")
async def test_a_clock_that_is_set_back_prolongs_no_lease(office: Office, host: HostClock) -> None:
    node = await prepare(office, SHORTEST)
    lease, promise = SHORTEST["lease_duration"], SHORTEST["lease_duration"] + SHORTEST["margin"]
    renewed = now()
    silent = await node.check_out()
    since = await lived(office)
    host.step("-10y")
    await show_frozen(office, await office.node("studio-8"), lease)
    while (until := await lived(office)) and silent.allocation.name in await office.held():
        # The daemon's own time, which a busy machine does not hurry.
        assert until < since + promise + TICK, "the lease does not end"
        await asyncio.sleep(0.02)
    assert now() > renewed + lease
    with pytest.raises(Refused) as refused:
        await node.heartbeat()
    assert refused.value.reason == "LEASE_EXPIRED"


@pytest.mark.behaviour("CC-11")
@pytest.mark.behaviour("CC-13")
@pytest.mark.behaviour("CC-26")
@pytest.mark.behaviour("CC-27")
@pytest.mark.parametrize("between_runs", [False, True], ids=["while running", "between runs"])
async def test_clients_keep_their_seats_through_every_step_of_the_clock(
    processes: Processes, host: HostClock, daemon: Daemon, tmp_path: Path, figures: Figures, *, between_runs: bool
) -> None:
    when = "between runs" if between_runs else "while running"
    when = f"{when}, of the database" if daemon.options else when
    frozen: list[tuple[float, float]] = []
    running: list[tuple[float, float]] = []
    async with Office(daemon) as office:
        await furnish(office, seats=8)
        nodes = ("studio-1", "studio-2")
        fleet = await Fleet.start(processes, office, tmp_path, figures, nodes=nodes, products=(PRODUCT, DATED))

        async def step(offset: str) -> None:
            if not between_runs:
                host.step(offset)
                return
            await daemon.kill()
            host.step(offset)
            await daemon.start()

        async def live(spans: list[tuple[float, float]]) -> None:
            await clock(office, frozen=spans is frozen)
            since = now()
            await fleet.more(MUCH)
            spans.append((since, now()))

        for name, offset in [*STEPS.items()] * max(1, figures.faults // 100):
            # There and back; neither is believed before an operator says so.
            for one in (offset, RIGHT):
                await step(one)
                await live(frozen)
                accepted = await daemon.command("clock", "accept")
                assert accepted.status == 0, accepted.err
                await live(running)
            figures.add(f"steps of the clock survived: {name}, {when}")
    history = await fleet.judge(refusals=FULL | {"CLOCK_FROZEN"})
    assert "EXPIRED" not in {one.event for one in history.steps}
    (dated,) = (line for line, there in history.lines.items() if there.product == DATED)

    # A request that was asked before may be answered again with what it had then.
    asked = {one.request_id: one.at for one in history.of(Asked)}
    grants = [(asked[one.request_id], one.told, dated in one.lines) for one in history.of(Granted)]

    def granted(spans: list[tuple[float, float]], *, dated_ones: bool) -> list[bool]:
        return [
            any(since <= begun and told <= until and of_dated is dated_ones for begun, told, of_dated in grants)
            for since, until in spans
        ]

    assert not any(granted(frozen, dated_ones=True))
    assert all(granted(frozen, dated_ones=False))
    assert all(granted(running, dated_ones=True))
