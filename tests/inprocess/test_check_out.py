"""Check-out, heartbeat and check-in on a daemon whose time the test drives."""

from __future__ import annotations

import asyncio

import pytest

from tests.inprocess.installation import Installation, Refused


@pytest.mark.behaviour("CC-11")
async def test_never_more_seats_than_the_pool_has(installation: Installation) -> None:
    await installation.studio(seats=3)
    node = await installation.node()
    answers = await asyncio.gather(*(node.check_out() for _ in range(20)), return_exceptions=True)
    denied = [one for one in answers if isinstance(one, Refused)]
    assert len(answers) - len(denied) == 3
    assert {one.reason for one in denied} == {"NO_SEAT_AVAILABLE"}
    counts = (await installation.pool()).counts
    assert (counts.total, counts.allocated_automatically, counts.available) == (3, 3, 0)


@pytest.mark.behaviour("MI-17")
async def test_a_seat_given_back_early_is_quarantined(installation: Installation) -> None:
    await installation.studio(seats=1, minimum_allocation=30)
    node, other = await installation.node("a"), await installation.node("b")
    granted = await node.check_out(consumer="ann")
    await installation.pass_by(10)
    ended = await node.check_in(granted.allocation.name)
    assert ended.quarantine_end_time.ToMicroseconds() == granted.allocation.allocate_time.ToMicroseconds() + 30_000_000
    with pytest.raises(Refused) as refused:
        await other.check_out(consumer="ann")
    assert refused.value.denial.counts.quarantined == 1
    await installation.pass_by(19.9)
    with pytest.raises(Refused):
        await other.check_out()
    await installation.pass_by(0.1)
    assert (await other.check_out()).quantity == 1
