"""Requests that are sent again: the same id has the same effect, once."""

from __future__ import annotations

import asyncio

import pytest

from poolkeeper.v1 import licensing_pb2
from tests.inprocess.installation import Installation, Refused
from tests.inprocess.steps import SHORT, counts, reason_of, refusal, release, taken, talking, twin


@pytest.mark.behaviour("CC-13")
async def test_a_retry_takes_no_second_seat(installation: Installation) -> None:
    await installation.studio(seats=2)
    node = await installation.node()
    first = await node.check_out(request_id="again")
    assert (await node.check_out(request_id="again")).allocation.name == first.allocation.name
    assert await counts(installation) == (2, 1, 0, 1)


@pytest.mark.behaviour("CC-13")
@pytest.mark.invariant("INV-5")
async def test_a_clock_that_is_not_trusted_forgets_no_request(installation: Installation) -> None:
    await installation.studio(seats=2)
    node = await installation.node()
    first = await node.check_out(request_id="again")
    housekeeping = installation.daemon.housekeeping
    # Thirty days ahead at once, and what is kept for seven would be old.
    installation.time.civil_now += 30 * 86_400 * 1_000_000
    await housekeeping.tick()
    await housekeeping.care()
    assert (await node.check_out(request_id="again")).allocation.name == first.allocation.name
    assert await counts(installation) == (2, 1, 0, 1)


@pytest.mark.behaviour("CC-13")
async def test_retries_at_the_same_time_take_one_seat(installation: Installation) -> None:
    await installation.studio(seats=8)
    node = await installation.node()
    answers = await asyncio.gather(*(node.check_out(request_id="again") for _ in range(8)))
    assert len({one.allocation.name for one in answers}) == 1
    assert await counts(installation) == (8, 1, 0, 7)


@pytest.mark.behaviour("CC-13")
async def test_a_retry_after_a_lost_reply_finds_the_seat_that_was_given(installation: Installation) -> None:
    await installation.studio(seats=2)
    node = await installation.node()
    async with talking(node) as talk:
        asked = licensing_pb2.CheckOutRequest(product="encoder", request_id="lost")
        await talk.send(check_out=asked)
        await taken(installation, 1)
    async with talking(node) as talk:
        found = (await talk.ask(check_out=asked)).check_out.granted
    assert [one.name for one in await node.allocations()] == [found.allocation.name]


@pytest.mark.behaviour("CC-13")
async def test_a_retry_is_told_what_remains_now(installation: Installation) -> None:
    await installation.studio(**SHORT)
    node = await installation.node()
    first = await node.check_out(request_id="again")
    await installation.pass_by(2)
    again = await node.check_out(request_id="again")
    assert first.remaining.ToMicroseconds() - again.remaining.ToMicroseconds() == 2_000_000


@pytest.mark.behaviour("CC-13")
async def test_a_retry_after_a_restart_finds_the_seat_that_was_given(installation: Installation) -> None:
    await installation.studio(seats=2)
    node = await installation.node()
    first = await node.check_out(request_id="again")
    await installation.restart()
    node.channel = installation.channel
    assert (await node.check_out(request_id="again")).allocation.name == first.allocation.name
    assert await counts(installation) == (2, 1, 0, 1)


@pytest.mark.behaviour("CC-13")
async def test_another_session_of_the_node_takes_over_what_its_retry_finds(installation: Installation) -> None:
    await installation.studio(seats=2, **SHORT)
    node = await installation.node()
    first = await node.check_out(request_id="again")
    second = await twin(node)
    found = await second.check_out(request_id="again")
    assert found.allocation.name == first.allocation.name
    for _ in range(3):
        await installation.pass_by(4)
        assert (await second.heartbeat(found)).reconcile == 0
    assert await counts(installation) == (2, 1, 0, 1)


@pytest.mark.behaviour("CC-13")
async def test_a_retry_is_told_when_what_it_made_has_run_out(installation: Installation) -> None:
    await installation.studio(**SHORT)
    node = await installation.node()
    await node.check_out(request_id="again")
    await installation.pass_by(9)
    later = await twin(node)
    assert await reason_of(later.check_out(request_id="again")) == "LEASE_EXPIRED"


@pytest.mark.behaviour("CC-13")
async def test_a_retry_is_told_when_what_it_made_was_checked_in(installation: Installation) -> None:
    await installation.studio(minimum_allocation=60)
    node = await installation.node()
    granted = await node.check_out(request_id="again")
    await node.check_in(granted.allocation.name)
    assert await reason_of(node.check_out(request_id="again")) == "LEASE_EXPIRED"
    assert await counts(installation) == (4, 0, 1, 3)


@pytest.mark.behaviour("CC-13")
async def test_a_retry_is_told_when_what_it_made_is_being_taken_back(installation: Installation) -> None:
    await installation.studio()
    node = await installation.node()
    granted = await node.check_out(request_id="again")
    await release(installation, granted.allocation.name)
    assert await reason_of(node.check_out(request_id="again")) == "REVOKED"


@pytest.mark.behaviour("CC-13")
async def test_a_different_request_under_a_used_id_is_refused(installation: Installation) -> None:
    await installation.studio()
    node = await installation.node()
    granted = await node.check_out(request_id="again")
    assert await reason_of(node.check_out(request_id="again", quantity=2)) == "REQUEST_ID_REUSED"
    assert await reason_of(node.check_in(granted.allocation.name, request_id="again")) == "REQUEST_ID_REUSED"
    assert await counts(installation) == (4, 1, 0, 3)


@pytest.mark.behaviour("CC-13")
@pytest.mark.invariant("3A-OUTCOME")
async def test_a_different_request_under_a_waiting_id_is_refused(installation: Installation) -> None:
    await installation.studio(seats=1)
    node = await installation.node()
    await node.check_out()
    async with talking(node) as talk:
        await talk.wait_for(60, request_id="again")
        _, other = await talk.wait_for(61, request_id="again")
        assert refusal(other).reason == "REQUEST_ID_REUSED"


@pytest.mark.behaviour("CC-13")
async def test_nodes_do_not_share_request_ids(installation: Installation) -> None:
    await installation.studio(seats=2)
    node, other = await installation.node("a"), await installation.node("b")
    first, second = await node.check_out(request_id="again"), await other.check_out(request_id="again")
    assert first.allocation.name != second.allocation.name


@pytest.mark.behaviour("CC-13")
async def test_a_denied_request_took_nothing_and_may_be_sent_again(installation: Installation) -> None:
    await installation.studio(seats=1)
    node = await installation.node()
    held = await node.check_out()
    with pytest.raises(Refused):
        await node.check_out(request_id="again")
    await node.check_in(held.allocation.name)
    assert (await node.check_out(request_id="again")).quantity == 1


@pytest.mark.behaviour("CC-13")
async def test_a_check_in_sent_again_takes_nothing_from_the_next_holder(installation: Installation) -> None:
    await installation.studio(seats=1)
    node, other = await installation.node("a"), await installation.node("b")
    granted = await node.check_out()
    await node.check_in(granted.allocation.name, request_id="back")
    await other.check_out()
    again = await node.check_in(granted.allocation.name, request_id="back")
    assert (again.name, again.state) == (granted.allocation.name, licensing_pb2.ALLOCATION_STATE_ENDED)
    assert await counts(installation) == (1, 1, 0, 0)


@pytest.mark.behaviour("CC-13")
async def test_a_check_in_sent_again_tells_the_state_of_now(installation: Installation) -> None:
    await installation.studio(seats=1, minimum_allocation=30)
    node = await installation.node()
    granted = await node.check_out()
    ended = await node.check_in(granted.allocation.name, request_id="back")
    assert ended.state == licensing_pb2.ALLOCATION_STATE_QUARANTINED
    await installation.pass_by(30)
    again = await node.check_in(granted.allocation.name, request_id="back")
    assert again.state == licensing_pb2.ALLOCATION_STATE_ENDED


@pytest.mark.behaviour("CC-13")
async def test_a_check_in_of_another_allocation_under_a_used_id_is_refused(installation: Installation) -> None:
    await installation.studio()
    node = await installation.node()
    first, second = await node.check_out(), await node.check_out()
    await node.check_in(first.allocation.name, request_id="back")
    assert await reason_of(node.check_in(second.allocation.name, request_id="back")) == "REQUEST_ID_REUSED"
    assert await counts(installation) == (4, 1, 0, 3)


@pytest.mark.behaviour("CC-13")
async def test_a_check_in_is_answered_after_a_restart_as_before(installation: Installation) -> None:
    await installation.studio()
    node = await installation.node()
    granted = await node.check_out()
    first = await node.check_in(granted.allocation.name, request_id="back")
    await installation.restart()
    node.channel = installation.channel
    assert await node.check_in(granted.allocation.name, request_id="back") == first


async def test_a_node_that_was_re_bound_cannot_carry_a_leased_seat_over_by_a_retry(installation: Installation) -> None:
    await installation.studio(seats=1, **SHORT)
    await installation.new_pool("east", moves={"SO-1": 1}, **SHORT)
    node = await installation.node("a")
    await node.check_out(request_id="again")
    bound = await installation.node("a", "estates/acme/pools/east", replace=True)
    for _ in range(3):
        await installation.pass_by(4)
        await bound.heartbeat()
        try:
            await bound.check_out(request_id="again")
        except Refused:
            continue
    assert await counts(installation) == (1, 0, 0, 1)
