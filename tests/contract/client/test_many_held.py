"""A client that holds much: what it does for the next seat, and for all of them, is no more than for a few."""

from pathlib import Path

import pytest

from poolkeeper import AsyncClient, HoldState, Wanted
from poolkeeper.aio import AsyncAllocation
from poolkeeper.testing import FakeServer
from tests.contract.client.backend import LEASE, ManualClock, eventually, state_of
from tests.unit.client.effort import Effort

#: What one more or one less retry may cost, or a message that comes in the middle; holding 600 more would cost more.
ROOM = 1.15


@pytest.mark.invariant("SDK-COST")
async def test_an_answer_and_a_renewal_cost_the_same_however_much_is_held(
    fake: FakeServer, fake_identity: Path
) -> None:
    fake.add_product("many", seats=1000)
    async with AsyncClient(identity=fake_identity, _clock=ManualClock()) as client:
        few = await _cost(client)
        held = [one.unwrap() for one in await client.batch_check_out([Wanted("many")] * 600)]
        much = await _cost(client)
        assert all(state_of(seat) is HoldState.HELD for seat in held)
    assert much["batch"] < few["batch"] * ROOM
    assert much["renewal"] < few["renewal"] * ROOM
    assert much["check-in"] < few["check-in"] * ROOM


async def _cost(client: AsyncClient) -> dict[str, int]:
    cost = {}
    with Effort() as counted:
        granted = [one.unwrap() for one in await client.batch_check_out([Wanted("many")] * 20)]
    cost["batch"] = counted.instructions
    session = client._current  # noqa: SLF001 - a heartbeat at once.
    assert session is not None
    with Effort() as counted:
        for _ in range(5):
            await session.beat()
    cost["renewal"] = counted.instructions
    with Effort() as counted:
        for seat in granted:
            await seat.check_in()
    cost["check-in"] = counted.instructions
    return cost


async def test_a_silence_and_its_end_are_told_of_each_and_an_overdue_renewal_of_none(
    fake: FakeServer, fake_identity: Path
) -> None:
    clock = ManualClock()
    lost: list[AsyncAllocation] = []
    regained: list[AsyncAllocation] = []

    def on_lost(seat: AsyncAllocation, _: object) -> None:
        lost.append(seat)

    async with AsyncClient(identity=fake_identity, _clock=clock, timeout=1) as client:
        seats = [await client.check_out("enc", on_lost=on_lost, on_regained=regained.append) for _ in range(2)]
        fake.stop()
        clock.advance(LEASE - 10)
        assert {state_of(seat) for seat in seats} == {HoldState.DOUBTFUL}
        clock.advance(10)
        await eventually(lambda: len(lost) == len(seats))
        fake.start()
        await eventually(lambda: len(regained) == len(seats))
    assert set(map(id, lost)) == set(map(id, regained)) == set(map(id, seats))
