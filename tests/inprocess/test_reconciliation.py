"""Heartbeats find what client and daemon know differently, and what nobody knows is given back."""

from __future__ import annotations

import pytest

from poolkeeper.v1 import errors_pb2, licensing_pb2
from tests.inprocess.installation import Installation, NodeClient
from tests.inprocess.steps import counts, reason_of, register, release, taken, talking, twin


async def lose(installation: Installation, node: NodeClient, request_id: str) -> None:
    """A check-out whose reply nobody reads."""
    before = (await counts(installation))[1]
    async with talking(node) as talk:
        await talk.send(check_out=licensing_pb2.CheckOutRequest(product="encoder", request_id=request_id))
        await taken(installation, before + 1)


def knowing(as_of: int, *held: licensing_pb2.Granted, pending: tuple[str, ...] = ()) -> dict[str, object]:
    return {
        "known": licensing_pb2.KnownAllocations(
            as_of=as_of, allocations=[one.allocation.name for one in held], pending_request_ids=pending
        )
    }


@pytest.mark.behaviour("CC-29")
async def test_a_heartbeat_that_agrees_has_nothing_to_reconcile(installation: Installation) -> None:
    await installation.studio()
    node = await installation.node()
    assert (await node.heartbeat()).reconcile == 0
    held = [await node.check_out(), await node.check_out(consumer="ann", quantity=2)]
    assert (await node.heartbeat(*held)).reconcile == 0


@pytest.mark.behaviour("CC-29")
async def test_a_seat_that_nobody_knows_is_found_and_given_back(installation: Installation) -> None:
    await installation.studio()
    node = await installation.node()
    kept = await node.check_out()
    await lose(installation, node, "lost")
    asked = await node.heartbeat(kept)
    assert asked.reconcile > 0
    assert await counts(installation) == (4, 2, 0, 2)
    told = await node.heartbeat(kept, **knowing(asked.reconcile, kept))
    assert list(told.notices) == []
    assert await counts(installation) == (4, 1, 0, 3)
    assert (await node.heartbeat(kept)).reconcile == 0
    assert await reason_of(node.check_out(request_id="lost")) == "LEASE_EXPIRED"


@pytest.mark.behaviour("CC-29")
async def test_what_is_given_back_so_rests_like_any_check_in(installation: Installation) -> None:
    await installation.studio(minimum_allocation=60)
    node = await installation.node()
    await lose(installation, node, "lost")
    await node.heartbeat(**knowing((await node.heartbeat()).reconcile))
    assert await counts(installation) == (4, 0, 1, 3)


@pytest.mark.behaviour("CC-29")
async def test_a_seat_whose_request_is_still_pending_is_kept(installation: Installation) -> None:
    await installation.studio()
    node = await installation.node()
    await lose(installation, node, "late")
    asked = await node.heartbeat()
    await node.heartbeat(**knowing(asked.reconcile, pending=("late",)))
    found = await node.check_out(request_id="late")
    assert (await node.heartbeat(found)).reconcile == 0
    assert await counts(installation) == (4, 1, 0, 3)


@pytest.mark.behaviour("CC-29")
async def test_a_seat_given_after_the_question_is_kept(installation: Installation) -> None:
    await installation.studio()
    node = await installation.node()
    kept = await node.check_out()
    asked = await node.heartbeat()
    newer = await node.check_out()
    await node.heartbeat(kept, **knowing(asked.reconcile, kept))
    assert (await node.heartbeat(kept, newer)).reconcile == 0
    assert await counts(installation) == (4, 2, 0, 2)


@pytest.mark.behaviour("CC-29")
async def test_the_first_seat_of_a_session_given_after_the_question_is_kept(installation: Installation) -> None:
    await installation.studio()
    node = await installation.node()
    gone = await (await twin(node)).check_out()
    asked = await node.heartbeat(gone)
    newer = await node.check_out()
    await node.heartbeat(**knowing(asked.reconcile))
    assert (await node.heartbeat(newer)).reconcile == 0


@pytest.mark.behaviour("CC-29")
async def test_a_waiter_s_grant_that_was_not_acknowledged_yet_is_kept(installation: Installation) -> None:
    await installation.studio(seats=1)
    node, other = await installation.node("a"), await installation.node("b")
    held = await node.check_out()
    async with talking(other) as talk:
        id_, _ = await talk.wait_for(60)
        await node.check_in(held.allocation.name)
        granted = (await talk.answer(id_)).check_out.granted
    asked = await other.heartbeat()
    await other.heartbeat(**knowing(asked.reconcile))
    firm = await other.acknowledge(granted.allocation.name, granted.fence)
    assert firm.state == licensing_pb2.ALLOCATION_STATE_ACTIVE


@pytest.mark.behaviour("CC-29")
async def test_a_client_is_told_what_is_gone(installation: Installation) -> None:
    await installation.studio()
    node = await installation.node()
    forced, ended = await node.check_out(), await node.check_out()
    await release(installation, forced.allocation.name, force=True)
    await node.check_in(ended.allocation.name)
    asked = await node.heartbeat(forced, ended)
    told = await node.heartbeat(forced, ended, **knowing(asked.reconcile, forced, ended))
    reasons = {one.allocation: one.reason for one in told.notices}
    assert reasons == {
        forced.allocation.name: errors_pb2.REASON_REVOKED,
        ended.allocation.name: errors_pb2.REASON_LEASE_EXPIRED,
    }


@pytest.mark.behaviour("CC-29")
async def test_a_client_is_told_what_never_was(installation: Installation) -> None:
    await installation.studio()
    node = await installation.node()
    ghost = licensing_pb2.Granted(
        allocation=licensing_pb2.Allocation(name="estates/acme/pools/west/allocations/ghost"), quantity=1
    )
    asked = await node.heartbeat(ghost)
    (told,) = (await node.heartbeat(ghost, **knowing(asked.reconcile, ghost))).notices
    assert (told.allocation, told.reason) == (ghost.allocation.name, errors_pb2.REASON_NOT_FOUND)


@pytest.mark.behaviour("CC-29")
async def test_another_quantity_is_a_difference_too(installation: Installation) -> None:
    await installation.studio()
    node = await installation.node()
    before = await node.check_out(consumer="ann")
    await node.check_out(consumer="ann", quantity=2)
    assert (await node.heartbeat(before)).reconcile > 0


@pytest.mark.behaviour("CC-29")
async def test_what_another_session_shares_is_given_back_for_this_one_only(installation: Installation) -> None:
    await installation.studio()
    await register(installation, "ann")
    node, other = await installation.node("a"), await installation.node("b")
    shared = await node.check_out(consumer="ann")
    await other.check_out(consumer="ann")
    asked = await other.heartbeat()
    await other.heartbeat(**knowing(asked.reconcile))
    assert (await node.heartbeat(shared)).reconcile == 0
    assert await counts(installation) == (4, 1, 0, 3)


@pytest.mark.behaviour("CC-29")
async def test_installed_seats_are_not_judged_by_a_digest(installation: Installation) -> None:
    await installation.studio(licensed_by="INSTALLED_INSTANCE")
    node = await installation.node()
    installed = await node.check_out(installation="/opt/encoder")
    assert (await node.heartbeat()).reconcile == 0
    assert list((await node.heartbeat(**knowing(99, installed))).notices) == []
    assert await counts(installation) == (4, 1, 0, 3)
