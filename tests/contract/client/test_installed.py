"""What is installed, and what nobody has heard of, with the SDK on one side and a real daemon on the other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import poolkeeper
from poolkeeper import AsyncClient, HoldState
from tests.contract.client.backend import eventually, state_of
from tests.contract.client.real import RealDaemon
from tests.contract.client.test_behaviours import SEAT, enrolled, through, wired

TOOL = "tool"
#: The shortest lease there is, and a program that is out of contact may go on for a minute.
SHORT: dict[str, Any] = {"lease_duration": 6, "heartbeat_interval": 2, "margin": 2.5, "continuation": 60}


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[RealDaemon]:
    with RealDaemon(tmp_path / "data", **SHORT) as server:
        server.add_product(TOOL, seats=1, installed=True)
        server.add_product(SEAT, seats=3)
        yield server


@asynccontextmanager
async def cut_off(daemon: RealDaemon, node: Path, **how: Any) -> AsyncIterator[tuple[Any, AsyncClient, Any]]:
    """A client whose network can be cut, with the clock of its machine."""
    clock = daemon.clock()
    async with wired(daemon) as wire, AsyncClient(through(wire), identity=node, _clock=clock, **how) as client:
        yield wire, client, clock


@pytest.mark.behaviour("CC-33")
async def test_a_program_goes_on_without_contact_for_the_continuation_and_then_stops(
    daemon: RealDaemon, tmp_path: Path
) -> None:
    node = await enrolled(daemon, tmp_path, "studio-1")
    lost: list[poolkeeper.LeaseLost] = []
    regained: list[str] = []
    async with cut_off(daemon, node) as (wire, client, clock):
        seat = await client.check_out(
            TOOL,
            installation="rack-1",
            on_lost=lambda _, error: lost.append(error),
            on_regained=lambda one: regained.append(one.name),
        )
        clock.advance(2)
        await eventually(lambda: (seat.held_for or 0) > 50)
        wire.swallows = True
        clock.advance(50)
        assert state_of(seat) is HoldState.HELD
        clock.advance(10)
        await eventually(lambda: bool(lost))
        assert state_of(seat) is HoldState.LOST
        wire.swallows = False
        await wire.cut()
        # Nobody else was given it, so it is there again with the contact.
        await eventually(lambda: regained == [seat.name])
        assert state_of(seat) is HoldState.HELD


@pytest.mark.behaviour("CC-33")
async def test_after_a_cut_that_ended_its_session_a_program_hears_of_a_release_and_lets_go(
    daemon: RealDaemon, tmp_path: Path
) -> None:
    node, other = [await enrolled(daemon, tmp_path, name) for name in ("studio-1", "studio-2")]
    lost: list[poolkeeper.LeaseLost] = []
    async with cut_off(daemon, node) as (wire, client, clock):
        seat = await client.check_out(TOOL, installation="rack-1", on_lost=lambda _, error: lost.append(error))
        clock.advance(2)
        await eventually(lambda: (seat.held_for or 0) > 50)
        wire.swallows = True
        clock.advance(11)
        daemon.revoke(seat.name)
        async with AsyncClient(identity=other) as second:
            with pytest.raises(poolkeeper.NoSeatAvailable):
                await second.check_out(TOOL, installation="rack-1")
            assert state_of(seat) is HoldState.HELD
            wire.swallows = False
            await wire.cut()
            await eventually(lambda: bool(lost))
            assert isinstance(lost[0], poolkeeper.Revoked)
            await eventually(lambda: daemon.available(TOOL) == 1)
            await second.check_out(TOOL, installation="rack-1")


@pytest.mark.behaviour("CC-29")
async def test_a_growth_that_was_not_answered_is_given_back(daemon: RealDaemon, tmp_path: Path) -> None:
    node = await enrolled(daemon, tmp_path, "studio-1")
    async with cut_off(daemon, node, timeout=0.2) as (wire, client, clock):
        seat = await client.check_out(SEAT, consumer="unit-4")
        clock.advance(2)
        wire.replies.clear()
        with pytest.raises(poolkeeper.Unreachable):
            await client.check_out(SEAT, consumer="unit-4", quantity=3)
        await eventually(lambda: daemon.available(SEAT) == 0)
        wire.replies.set()
        await wire.cut()
        for _ in range(20):
            # A heartbeat that differs, and another one that says what is known.
            clock.advance(2)
            beats = daemon.heartbeats
            await eventually(lambda: daemon.heartbeats > beats)  # noqa: B023 - called at once
            if daemon.available(SEAT) == 2:
                break
        assert daemon.available(SEAT) == 2
        assert (seat.quantity, state_of(seat)) == (1, HoldState.HELD)


@pytest.mark.behaviour("CC-29")
async def test_an_installed_seat_that_its_program_has_not_heard_of_does_not_outlast_it(
    daemon: RealDaemon, tmp_path: Path
) -> None:
    node = await enrolled(daemon, tmp_path, "studio-1")
    async with cut_off(daemon, node, timeout=0.2) as (wire, client, _):
        await client.check_out(SEAT)
        wire.replies.clear()
        with pytest.raises(poolkeeper.Unreachable):
            await client.check_out(TOOL, installation="rack-1")
        await eventually(lambda: daemon.available(TOOL) == 0)
        wire.replies.set()
        await wire.cut()
    await eventually(lambda: daemon.available(TOOL) == 1)
