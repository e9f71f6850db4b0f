"""A daemon whose database was put back as it was before: the SDK proves what its program holds, and goes on."""

import dataclasses
import shutil
from pathlib import Path

import pytest

import poolkeeper
from poolkeeper import AsyncClient, HoldState
from poolkeeper._connector import Transport
from poolkeeper.aio import AsyncAllocation
from poolkeeper_server.storage.embedded import EmbeddedDatabase
from tests.contract.client.backend import LEASE, eventually, state_of
from tests.contract.client.real import HEARTBEAT, MARGIN, RealDaemon, SharedClock

WHY = "The database was restored from a backup."


def back_up(daemon: RealDaemon) -> None:
    daemon.stop()
    database = daemon.installation.data / "poolkeeper.sqlite"
    shutil.copy(database, f"{database}.backup")
    daemon.start()


def put_back(daemon: RealDaemon, clock: SharedClock) -> None:
    """The daemon is stopped already, as by a crash; afterwards every client has a heartbeat to send."""
    database = daemon.installation.data / "poolkeeper.sqlite"
    shutil.copy(f"{database}.backup", database)
    daemon.run(EmbeddedDatabase(database).begin_epoch(daemon.time.civil_now, WHY))
    daemon.start()
    clock.advance(HEARTBEAT)


async def heard(client: AsyncClient, told: list[str]) -> AsyncAllocation:
    """A seat whose losses and returns are noted."""
    return await client.check_out(
        "enc",
        on_lost=lambda _, error: told.append(error.reason),
        on_regained=lambda _: told.append("REGAINED"),
    )


async def beat(client: AsyncClient) -> None:
    """A heartbeat at once."""
    session = client._current  # noqa: SLF001 - when it beats is its own affair.
    assert session is not None
    await session.beat()


def names(daemon: RealDaemon) -> set[str]:
    return {one.name for one in daemon.allocations()}


@pytest.mark.behaviour("CC-16")
async def test_a_session_that_was_restored_gets_back_what_it_took_since(
    daemon: RealDaemon, node: Path, transport: Transport
) -> None:
    clock = daemon.clock()
    told: list[str] = []
    async with AsyncClient(identity=node, transport=transport, _clock=clock) as client:
        early = await client.check_out("enc", consumer="early")
        back_up(daemon)
        late = await client.check_out("enc", on_lost=lambda _, error: told.append(error.reason))
        await early.check_in()
        daemon.stop()
        put_back(daemon, clock)
        await eventually(lambda: names(daemon) == {late.name})
        assert state_of(late) is HoldState.HELD
        assert told == []
        await late.check_in()
        assert daemon.available("enc") == 2


@pytest.mark.behaviour("CC-16")
async def test_a_session_that_is_not_known_any_more_is_replaced_and_its_seats_are_proven(
    daemon: RealDaemon, node: Path, transport: Transport
) -> None:
    clock = daemon.clock()
    told: list[str] = []
    back_up(daemon)
    async with AsyncClient(identity=node, transport=transport, _clock=clock) as client:
        seats = [await client.check_out("enc", on_lost=lambda _, error: told.append(error.reason)) for _ in range(2)]
        daemon.stop()
        put_back(daemon, clock)
        await eventually(lambda: names(daemon) == {seat.name for seat in seats})
        with pytest.raises(poolkeeper.NoSeatAvailable, match="restored"):
            await client.check_out("enc")
        assert [state_of(seat) for seat in seats] == [HoldState.HELD] * 2
        assert told == []
        # The daemon knows its new session: time goes on as ever.
        daemon.advance(LEASE * 0.5)
        assert len(names(daemon)) == 2
        for seat in seats:
            await seat.check_in()
        assert daemon.available("enc") == 2


@pytest.mark.behaviour("CC-16")
async def test_what_was_lost_by_silence_is_regained_while_it_is_promised(daemon: RealDaemon, node: Path) -> None:
    told: list[str] = []
    clock = daemon.clock()
    back_up(daemon)
    async with AsyncClient(identity=node, _clock=clock) as client:
        seat = await heard(client, told)
        daemon.stop()
        clock.advance(LEASE - 3)
        await eventually(lambda: told == ["LEASE_EXPIRED"])
        put_back(daemon, clock)
        await eventually(lambda: told == ["LEASE_EXPIRED", "REGAINED"])
        assert state_of(seat) is HoldState.HELD
        assert names(daemon) == {seat.name}


@pytest.mark.behaviour("CC-16")
async def test_what_is_not_promised_any_more_stays_lost(daemon: RealDaemon, node: Path) -> None:
    told: list[str] = []
    clock = daemon.clock()
    back_up(daemon)
    async with AsyncClient(identity=node, _clock=clock) as client:
        seat = await heard(client, told)
        daemon.stop()
        clock.advance(LEASE + 1)
        await eventually(lambda: told == ["LEASE_EXPIRED"])
        put_back(daemon, clock)
        # Its session is over, and a new one draws nothing in the quiet period.
        with pytest.raises(poolkeeper.NoSeatAvailable):
            await client.check_out("enc")
        assert state_of(seat) is HoldState.LOST
        assert (told, names(daemon)) == (["LEASE_EXPIRED"], set())
        for _ in range(round(LEASE + MARGIN)):
            clock.advance(1)
        seat = await client.check_out("enc")
        assert state_of(seat) is HoldState.HELD


@pytest.mark.behaviour("CC-16")
async def test_a_receipt_that_is_refused_leaves_the_seat_lost_with_the_reason(daemon: RealDaemon, node: Path) -> None:
    clock = daemon.clock()
    told: list[poolkeeper.LeaseLost] = []
    back_up(daemon)
    async with AsyncClient(identity=node, _clock=clock) as client:
        seat = await client.check_out("enc", on_lost=lambda _, error: told.append(error))
        session = client._current  # noqa: SLF001 - what a program cannot reach, and a broken disk could.
        assert session is not None
        receipts = session._receipts._grants  # noqa: SLF001 - as above.
        grant = receipts[seat.name]
        receipts[seat.name] = dataclasses.replace(grant, receipt=grant.receipt[:-1])
        daemon.stop()
        put_back(daemon, clock)
        # The daemon asks first; what is still not proven then is gone.
        await eventually(lambda: client._current is not session)  # noqa: SLF001 - as above.
        await beat(client)
        await beat(client)
        await eventually(lambda: bool(told))
        assert told[0].reason == "NOT_FOUND"
        assert state_of(seat) is HoldState.LOST
        assert names(daemon) == set()


@pytest.mark.behaviour("CC-16")
async def test_a_renewal_outlives_the_grant_s_own_promise(daemon: RealDaemon, node: Path) -> None:
    clock = daemon.clock()
    back_up(daemon)
    async with AsyncClient(identity=node, _clock=clock) as client:
        kept, given = [await client.check_out("enc") for _ in range(2)]
        clock.advance(LEASE * 0.7)
        await beat(client)
        # Given back after the renewal: the set it was about is shown whole, and this one is not claimed.
        await given.check_in()
        clock.advance(LEASE * 0.7)
        daemon.stop()
        put_back(daemon, clock)
        await eventually(lambda: names(daemon) == {kept.name})
        assert state_of(kept) is HoldState.HELD


@pytest.mark.behaviour("CC-12")
async def test_installed_allocations_of_after_the_backup_go_on(daemon: RealDaemon, node: Path) -> None:
    clock = daemon.clock()
    daemon.add_product("app", seats=2, installed=True)
    async with AsyncClient(identity=node, _clock=clock) as client:
        early = await client.check_out("app", installation="one")
        back_up(daemon)
        late = await client.check_out("app", installation="two")
        daemon.stop()
        put_back(daemon, clock)
        await eventually(lambda: names(daemon) == {early.name, late.name})
        assert [state_of(one) for one in (early, late)] == [HoldState.HELD] * 2
        again = await client.check_out("app", installation="two")
        assert again.name == late.name


@pytest.mark.behaviour("CC-16")
async def test_a_client_goes_on_through_one_restore_after_the_other(daemon: RealDaemon, node: Path) -> None:
    clock = daemon.clock()
    back_up(daemon)
    async with AsyncClient(identity=node, _clock=clock) as client:
        seat = await client.check_out("enc")
        for _ in range(3):
            clock.advance(LEASE * 0.5)
            daemon.stop()
            put_back(daemon, clock)
            await eventually(lambda: names(daemon) == {seat.name})
            await beat(client)
        assert state_of(seat) is HoldState.HELD
