"""The minimum allocation time: seats given back early rest, and only their own consumer may take them up again."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from poolkeeper.v1 import admin_pb2, licensing_pb2
from tests.inprocess.installation import BEGINNING, Installation
from tests.inprocess.steps import (
    counts,
    move,
    queued,
    reason_of,
    refusal,
    register,
    release,
    talking,
    unticked,
    update,
)

ENDED = licensing_pb2.ALLOCATION_STATE_ENDED
QUARANTINED = licensing_pb2.ALLOCATION_STATE_QUARANTINED
DAY = 24 * 3600


@pytest.mark.behaviour("CC-21")
@pytest.mark.behaviour("MI-17")
async def test_a_seat_given_back_early_rests_to_the_end_of_its_minimum_time(installation: Installation) -> None:
    await installation.studio(seats=1, minimum_allocation=30)
    node, other = await installation.node("a"), await installation.node("b")
    granted = await node.check_out()
    await installation.pass_by(10)
    ended = await node.check_in(granted.allocation.name)
    assert (ended.state, ended.quarantine_end_time.ToMicroseconds()) == (QUARANTINED, BEGINNING + 30_000_000)
    assert await reason_of(other.check_out()) == "NO_SEAT_AVAILABLE"


@pytest.mark.behaviour("CC-21")
@pytest.mark.behaviour("MI-18")
async def test_a_seat_given_back_at_its_minimum_time_is_free_at_once(installation: Installation) -> None:
    await installation.studio(seats=1, minimum_allocation=30)
    node, other = await installation.node("a"), await installation.node("b")
    granted = await node.check_out()
    await installation.pass_by(30)
    assert (await node.check_in(granted.allocation.name)).state == ENDED
    assert (await other.check_out()).quantity == 1


@pytest.mark.behaviour("CC-21")
async def test_a_longer_minimum_time_does_not_prolong_a_quarantine_that_runs(installation: Installation) -> None:
    await installation.studio(seats=1, minimum_allocation=30)
    node = await installation.node()
    await node.check_in((await node.check_out()).allocation.name)
    await update(installation, minimum_allocation=90)
    await installation.pass_by(30)
    assert await counts(installation) == (1, 0, 0, 1)


@pytest.mark.behaviour("CC-21")
async def test_a_shorter_minimum_time_does_not_end_a_quarantine_that_runs(installation: Installation) -> None:
    await installation.studio(seats=1, minimum_allocation=30)
    node = await installation.node()
    await node.check_in((await node.check_out()).allocation.name)
    await update(installation, minimum_allocation=5)
    await installation.pass_by(29)
    assert await counts(installation) == (1, 0, 1, 0)


@pytest.mark.behaviour("CC-21")
async def test_the_minimum_time_of_the_check_in_is_what_counts(installation: Installation) -> None:
    await installation.studio(seats=1, minimum_allocation=30)
    node = await installation.node()
    granted = await node.check_out()
    await update(installation, minimum_allocation=90)
    ended = await node.check_in(granted.allocation.name)
    assert ended.quarantine_end_time.ToMicroseconds() == BEGINNING + 90_000_000


@pytest.mark.behaviour("MI-19")
async def test_counts_move_exactly_at_the_end_of_a_quarantine_without_any_tick(installation: Installation) -> None:
    await installation.studio(seats=1, minimum_allocation=30)
    node, other = await installation.node("a"), await installation.node("b")
    await node.check_in((await node.check_out()).allocation.name)
    installation.time.pass_by(29.999_999)
    assert await counts(installation) == (1, 0, 1, 0)
    installation.time.pass_by(0.000_001)
    assert await counts(installation) == (1, 0, 0, 1)
    line = (await installation.pool()).holdings[0].counts
    assert (line.quarantined, line.available) == (0, 1)
    assert (await other.check_out()).quantity == 1


@pytest.mark.behaviour("MI-19")
async def test_a_seat_can_be_moved_from_the_instant_its_quarantine_ends(installation: Installation) -> None:
    await installation.studio(seats=1, minimum_allocation=30)
    node = await installation.node()
    await node.check_in((await node.check_out()).allocation.name)
    installation.time.pass_by(30)
    await move(installation, "west", "default", L000001=1)
    assert await counts(installation) == (0, 0, 0, 0)


@pytest.mark.behaviour("MI-19")
async def test_who_waits_gets_the_seat_when_its_quarantine_ends(installation: Installation) -> None:
    await installation.studio(seats=1, minimum_allocation=30)
    node, other = await installation.node("a"), await installation.node("b")
    await node.check_in((await node.check_out()).allocation.name)
    async with talking(other) as talk:
        id_, _ = await talk.wait_for(60)
        await installation.pass_by(30)
        granted = (await talk.answer(id_)).check_out.granted
        assert granted.allocation.allocate_time.ToMicroseconds() == BEGINNING + 30_000_000


@pytest.mark.behaviour("CC-22")
async def test_a_consumer_takes_its_own_resting_seat_up_again_with_the_old_clock(installation: Installation) -> None:
    await installation.studio(seats=1, minimum_allocation=30)
    node = await installation.node()
    first = await node.check_out(consumer="ann")
    await node.check_in(first.allocation.name)
    await installation.pass_by(10)
    again = await node.check_out(consumer="ann")
    assert again.resumed
    assert again.allocation.name == first.allocation.name
    assert again.allocation.allocate_time == first.allocation.allocate_time
    await installation.pass_by(20)
    assert (await node.check_in(again.allocation.name)).state == ENDED


@pytest.mark.behaviour("CC-22")
async def test_a_seat_taken_up_again_and_given_back_early_rests_to_the_same_end(installation: Installation) -> None:
    await installation.studio(seats=1, minimum_allocation=30)
    node = await installation.node()
    first = await node.check_in((await node.check_out(consumer="ann")).allocation.name)
    await installation.pass_by(10)
    second = await node.check_in((await node.check_out(consumer="ann")).allocation.name)
    assert second.quarantine_end_time == first.quarantine_end_time


@pytest.mark.behaviour("CC-22")
async def test_another_consumer_of_the_same_node_may_not(installation: Installation) -> None:
    await installation.studio(seats=1, minimum_allocation=30)
    node = await installation.node()
    await node.check_in((await node.check_out(consumer="ann")).allocation.name)
    assert await reason_of(node.check_out(consumer="bob")) == "NO_SEAT_AVAILABLE"
    assert await reason_of(node.check_out()) == "NO_SEAT_AVAILABLE"


@pytest.mark.behaviour("CC-22")
async def test_the_same_name_on_another_node_may_not(installation: Installation) -> None:
    await installation.studio(seats=1, minimum_allocation=30)
    node, other = await installation.node("a"), await installation.node("b")
    await node.check_in((await node.check_out(consumer="ann")).allocation.name)
    assert await reason_of(other.check_out(consumer="ann")) == "NO_SEAT_AVAILABLE"


@pytest.mark.behaviour("CC-22")
async def test_a_registered_consumer_may_on_another_node(installation: Installation) -> None:
    await installation.studio(seats=1, minimum_allocation=30)
    await register(installation, "ann")
    node, other = await installation.node("a"), await installation.node("b")
    first = await node.check_out(consumer="ann")
    await node.check_in(first.allocation.name)
    again = await other.check_out(consumer="ann")
    assert again.resumed
    assert (again.allocation.name, again.allocation.node) == (first.allocation.name, other.name)
    assert (await other.heartbeat(again)).reconcile == 0


@pytest.mark.behaviour("CC-22")
async def test_a_node_takes_up_what_it_had_without_a_consumer(installation: Installation) -> None:
    await installation.studio(seats=1, minimum_allocation=30)
    node, other = await installation.node("a"), await installation.node("b")
    first = await node.check_out()
    await node.close()
    assert await reason_of(other.check_out()) == "NO_SEAT_AVAILABLE"
    await node.open()
    again = await node.check_out()
    assert (again.resumed, again.allocation.name) == (True, first.allocation.name)


@pytest.mark.behaviour("CC-22")
async def test_what_is_not_taken_up_again_goes_on_resting(installation: Installation) -> None:
    await installation.studio(seats=3, minimum_allocation=30)
    node = await installation.node()
    await node.check_in((await node.check_out(consumer="ann", quantity=3)).allocation.name)
    assert (await node.check_out(consumer="ann", quantity=1)).resumed
    assert await counts(installation) == (3, 1, 2, 0)
    await installation.pass_by(30)
    assert await counts(installation) == (3, 1, 0, 2)


@pytest.mark.behaviour("CC-22")
async def test_taking_up_again_may_grow_by_free_seats(installation: Installation) -> None:
    await installation.studio(seats=3, minimum_allocation=30)
    node = await installation.node()
    first = await node.check_out(consumer="ann")
    await node.check_in(first.allocation.name)
    again = await node.check_out(consumer="ann", quantity=3)
    assert (again.resumed, again.quantity, again.allocation.name) == (True, 3, first.allocation.name)
    assert again.allocation.allocate_time == first.allocation.allocate_time
    assert await counts(installation) == (3, 3, 0, 0)


@pytest.mark.behaviour("CC-22")
async def test_growing_further_than_there_are_seats_leaves_all_resting(installation: Installation) -> None:
    await installation.studio(seats=2, minimum_allocation=30)
    node = await installation.node()
    await node.check_in((await node.check_out(consumer="ann")).allocation.name)
    assert await reason_of(node.check_out(consumer="ann", quantity=3)) == "NO_SEAT_AVAILABLE"
    assert await counts(installation) == (2, 0, 1, 1)


@pytest.mark.behaviour("CC-22")
async def test_several_resting_seats_are_taken_up_as_one_with_the_latest_clock(installation: Installation) -> None:
    await installation.studio(seats=2, minimum_allocation=30)
    node = await installation.node()
    first = await node.check_out()
    await installation.pass_by(5)
    second = await node.check_out()
    await node.check_in(first.allocation.name)
    await node.check_in(second.allocation.name)
    again = await node.check_out(quantity=2)
    assert (again.resumed, again.quantity) == (True, 2)
    assert again.allocation.allocate_time == second.allocation.allocate_time
    assert (await node.heartbeat(again)).reconcile == 0


@pytest.mark.behaviour("CC-22")
async def test_after_its_quarantine_a_seat_is_a_new_allocation(installation: Installation) -> None:
    await installation.studio(seats=1, minimum_allocation=30)
    node = await installation.node()
    first = await node.check_out(consumer="ann")
    await node.check_in(first.allocation.name)
    installation.time.pass_by(30)
    again = await node.check_out(consumer="ann")
    assert not again.resumed
    assert again.allocation.name != first.allocation.name


@pytest.mark.behaviour("CC-22")
async def test_a_resting_seat_is_taken_up_again_past_the_licence_s_last_day_as_a_lease_is_renewed(
    installation: Installation,
) -> None:
    await installation.estate()
    await installation.product()
    today = datetime.fromtimestamp(installation.time.civil_now / 1_000_000, UTC).date()
    await installation.licence(1, order="ending", valid_until=today.isoformat())
    await installation.new_pool(moves={"ending": 1}, minimum_allocation=3 * DAY)
    node = await installation.node()
    first = await node.check_out(consumer="ann")
    await node.check_in(first.allocation.name)
    installation.time.pass_by(2 * DAY)
    await node.open()
    assert await reason_of(node.check_out(consumer="bob")) == "LICENCE_EXPIRED"
    again = await node.check_out(consumer="ann")
    assert (again.resumed, again.allocation.name) == (True, first.allocation.name)


@pytest.mark.behaviour("CC-22")
async def test_a_resting_seat_is_taken_up_again_past_those_who_wait(installation: Installation) -> None:
    await installation.studio(seats=1, minimum_allocation=30)
    node, other = await installation.node("a"), await installation.node("b")
    await node.check_in((await node.check_out(consumer="ann")).allocation.name)
    async with talking(other) as talk:
        await talk.wait_for(60)
        assert (await node.check_out(consumer="ann")).resumed


@pytest.mark.behaviour("CC-21")
async def test_a_wait_that_is_given_up_does_not_free_resting_seats(installation: Installation) -> None:
    await installation.studio(seats=2, minimum_allocation=600)
    node, other = await installation.node("a"), await installation.node("b")
    await node.check_in((await node.check_out(consumer="ann")).allocation.name)
    held = await other.check_out()
    async with talking(node) as talk:
        id_, _ = await talk.wait_for(60, consumer="ann", quantity=2, request_id="w")
        await release(installation, held.allocation.name, force=True, no_quarantine=True)
        assert (await talk.answer(id_)).check_out.granted.provisional
        await talk.ask(cancel_wait=licensing_pb2.CancelWaitRequest(request_id="w"))
    assert (await counts(installation))[2] >= 1


@pytest.mark.behaviour("CC-21")
async def test_an_unacknowledged_wait_does_not_free_resting_seats(installation: Installation) -> None:
    await installation.studio(seats=2, minimum_allocation=600)
    node, other = await installation.node("a"), await installation.node("b")
    await node.check_in((await node.check_out(consumer="ann")).allocation.name)
    held = await other.check_out()
    async with talking(node) as talk:
        id_, _ = await talk.wait_for(60, consumer="ann", quantity=2)
        await release(installation, held.allocation.name, force=True, no_quarantine=True)
        await talk.answer(id_)
        await installation.pass_by(11)
    assert (await counts(installation))[2] >= 1


@pytest.mark.behaviour("CC-21")
async def test_a_sharer_who_gives_back_early_leaves_its_seats_resting(installation: Installation) -> None:
    await installation.studio(seats=3, minimum_allocation=60)
    await register(installation, "ann")
    node, other = await installation.node("a"), await installation.node("b")
    await node.check_out(consumer="ann")
    larger = await other.check_out(consumer="ann", quantity=3)
    await other.check_in(larger.allocation.name)
    assert await counts(installation) == (3, 1, 2, 0)


async def test_nothing_waits_when_everything_was_served(installation: Installation) -> None:
    await installation.studio(seats=1, minimum_allocation=5)
    node, other = await installation.node("a"), await installation.node("b")
    await node.check_in((await node.check_out()).allocation.name)
    async with talking(other) as talk:
        id_, _ = await talk.wait_for(3)
        await unticked(installation, node, 2)
        await queued(installation, 1)
        await installation.pass_by(2)
        assert refusal(await talk.answer(id_)).reason == "WAIT_EXPIRED"
    await queued(installation, 0)


@pytest.mark.behaviour("CC-21")
@pytest.mark.behaviour("CC-27")
async def test_a_seat_taken_before_the_clock_was_set_back_rests_no_longer_than_its_minimum_time(
    installation: Installation,
) -> None:
    await installation.studio(seats=1, minimum_allocation=30)
    node = await installation.node()
    granted = await node.check_out()
    back = 10 * 365 * 86_400_000_000
    installation.time.civil_now -= back
    await installation.admin.clocks.AcceptClock(admin_pb2.AcceptClockRequest())
    await installation.daemon.housekeeping.tick()
    ended = await node.check_in(granted.allocation.name)
    assert ended.quarantine_end_time.ToMicroseconds() == BEGINNING - back + 30_000_000
    await update(installation, minimum_allocation=0)
    await installation.pass_by(30)
    # Where there is no minimum time, it does not rest at all.
    granted = await node.check_out()
    installation.time.civil_now -= back
    await installation.admin.clocks.AcceptClock(admin_pb2.AcceptClockRequest())
    await installation.daemon.housekeeping.tick()
    assert (await node.check_in(granted.allocation.name)).state == ENDED
