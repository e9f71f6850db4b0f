"""Heartbeats find what client and daemon know differently, and what nobody knows is given back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from poolkeeper.v1 import errors_pb2, licensing_pb2
from tests.inprocess.installation import Installation, NodeClient, answer, digest_of
from tests.inprocess.steps import (
    SHORT,
    counts,
    knowing,
    named,
    reason_of,
    register,
    release,
    taken,
    talking,
    twin,
)


async def lose(installation: Installation, node: NodeClient, request_id: str) -> None:
    """A check-out whose reply nobody reads."""
    before = (await counts(installation))[1]
    async with talking(node) as talk:
        await talk.send(check_out=licensing_pb2.CheckOutRequest(product="encoder", request_id=request_id))
        await taken(installation, before + 1)


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
async def test_what_nobody_has_had_does_not_rest_when_it_is_disclaimed_at_once(installation: Installation) -> None:
    await installation.studio(minimum_allocation=600)
    node = await installation.node()
    await lose(installation, node, "lost")
    await node.heartbeat(**knowing((await node.heartbeat()).reconcile))
    assert await counts(installation) == (4, 0, 0, 4)


@pytest.mark.behaviour("CC-29")
async def test_what_was_named_once_rests_when_it_is_disclaimed(installation: Installation) -> None:
    await installation.studio(minimum_allocation=600)
    node = await installation.node()
    held = await node.check_out()
    await named(node, held)
    await node.heartbeat(**knowing((await node.heartbeat()).reconcile))
    assert await counts(installation) == (4, 0, 1, 3)


@pytest.mark.behaviour("CC-29")
async def test_what_is_disclaimed_after_more_than_a_heartbeat_rests(installation: Installation) -> None:
    await installation.studio(minimum_allocation=600)
    node = await installation.node()
    await node.check_out()
    await installation.pass_by(36)
    await node.heartbeat(**knowing((await node.heartbeat()).reconcile))
    assert await counts(installation) == (4, 0, 1, 3)


@pytest.mark.behaviour("CC-29")
async def test_what_is_lost_by_silence_rests(installation: Installation) -> None:
    await installation.studio(minimum_allocation=600, **SHORT)
    node = await installation.node()
    await lose(installation, node, "lost")
    await installation.pass_by(9)
    assert await counts(installation) == (4, 0, 1, 3)


@pytest.mark.behaviour("CC-29")
async def test_a_resumed_seat_that_nobody_knows_of_goes_on_resting(installation: Installation) -> None:
    await installation.studio(minimum_allocation=600)
    node = await installation.node()
    first = await node.check_out(consumer="ann")
    await node.check_in(first.allocation.name)
    await node.check_out(consumer="ann")  # its answer is lost
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
        allocation=licensing_pb2.Allocation(name=f"estates/acme/pools/west/allocations/{0:024}"), quantity=1
    )
    asked = await node.heartbeat(ghost)
    (told,) = (await node.heartbeat(ghost, **knowing(asked.reconcile, ghost))).notices
    assert (told.allocation, told.reason) == (ghost.allocation.name, errors_pb2.REASON_NOT_FOUND)


@pytest.mark.behaviour("CC-29")
async def test_what_a_growth_brought_that_nobody_knows_of_comes_back(installation: Installation) -> None:
    await installation.studio(minimum_allocation=600)
    node = await installation.node()
    before = await node.check_out(consumer="ann")
    await named(node, before)
    await node.check_out(consumer="ann", quantity=3)  # its answer is lost
    assert await counts(installation) == (4, 3, 0, 1)
    asked = await node.heartbeat(before)
    told = await node.heartbeat(before, **knowing(asked.reconcile, before))
    assert (list(told.notices), list(told.resized)) == ([], [])
    assert await counts(installation) == (4, 1, 0, 3)
    await named(node, before)


@pytest.mark.behaviour("CC-29")
async def test_a_growth_that_may_still_be_answered_is_kept(installation: Installation) -> None:
    await installation.studio()
    node = await installation.node()
    before = await node.check_out(consumer="ann")
    await node.check_out(consumer="ann", quantity=3, request_id="late")
    asked = await node.heartbeat(before)
    await node.heartbeat(before, **knowing(asked.reconcile, before, pending=("late",)))
    assert await counts(installation) == (4, 3, 0, 1)


@pytest.mark.behaviour("CC-29")
async def test_a_client_that_knows_too_much_is_told_the_size(installation: Installation) -> None:
    await installation.studio()
    node = await installation.node()
    large = await node.check_out(consumer="ann", quantity=3)
    small = await node.check_out(consumer="ann")
    asked = await node.heartbeat(large)
    (told,) = (await node.heartbeat(large, **knowing(asked.reconcile, large))).resized
    assert (told.allocation, told.quantity) == (large.allocation.name, 1)
    await named(node, small)


@pytest.mark.behaviour("CC-29")
async def test_an_installed_seat_that_nobody_knows_of_comes_back(installation: Installation) -> None:
    await installation.studio(licensed_by="INSTALLED_INSTANCE")
    node = await installation.node()
    await node.check_out(installation="/opt/encoder")  # its answer is lost
    asked = await node.heartbeat()
    assert asked.reconcile > 0
    await node.heartbeat(**knowing(asked.reconcile))
    assert await counts(installation) == (4, 0, 0, 4)


@pytest.mark.behaviour("CC-29")
async def test_an_installed_seat_whose_client_died_before_it_named_it_comes_back(installation: Installation) -> None:
    await installation.studio(licensed_by="INSTALLED_INSTANCE", **SHORT)
    node = await installation.node()
    await node.check_out(installation="/opt/encoder")
    await installation.pass_by(8.49)
    assert await counts(installation) == (4, 1, 0, 3)
    await installation.pass_by(0.01)
    assert await counts(installation) == (4, 0, 0, 4)


async def by_digest(node: NodeClient, granted: licensing_pb2.Granted) -> None:
    await named(node, granted)


async def by_name(node: NodeClient, granted: licensing_pb2.Granted) -> None:
    await node.heartbeat(**knowing((await node.heartbeat()).reconcile, granted))


async def by_acknowledgement(node: NodeClient, granted: licensing_pb2.Granted) -> None:
    firm = await node.acknowledge(granted.allocation.name, granted.fence)
    assert firm.state == licensing_pb2.ALLOCATION_STATE_ACTIVE


async def by_closing(node: NodeClient, granted: licensing_pb2.Granted) -> None:
    assert await closed(node, granted) == 0


async def by_closing_without_a_word(node: NodeClient, _: licensing_pb2.Granted) -> None:
    await node.close()


async def closed(node: NodeClient, *known: licensing_pb2.Granted, **fields: Any) -> int:
    """Closes the session with the digest of what is known; gives what the daemon asks to be accounted for."""
    request = licensing_pb2.CloseSessionRequest(allocation_count=len(known), digest=digest_of(*known), **fields)
    return int((await answer(node.stub.CloseSession(request, metadata=node.metadata))).reconcile)


@pytest.mark.behaviour("CC-29")
@pytest.mark.parametrize("naming", [by_digest, by_name, by_acknowledgement, by_closing, by_closing_without_a_word])
async def test_an_installed_seat_that_was_named_once_outlasts_its_session(
    installation: Installation, naming: Callable[[NodeClient, licensing_pb2.Granted], Awaitable[None]]
) -> None:
    await installation.studio(licensed_by="INSTALLED_INSTANCE", **SHORT)
    node = await installation.node()
    await naming(node, await node.check_out(installation="/opt/encoder"))
    await installation.pass_by(20)
    assert await counts(installation) == (4, 1, 0, 3)


@pytest.mark.behaviour("CC-29")
async def test_a_session_that_closes_without_knowing_of_a_seat_gives_it_back(installation: Installation) -> None:
    await installation.studio(licensed_by="INSTALLED_INSTANCE")
    node = await installation.node()
    kept = await node.check_out(installation="/opt/encoder")
    await node.check_out(installation="/opt/decoder")  # its answer is lost
    as_of = await closed(node, kept)
    assert as_of > 0
    assert await counts(installation) == (4, 2, 0, 2)
    assert await closed(node, kept, **knowing(as_of, kept)) == 0
    assert await counts(installation) == (4, 1, 0, 3)


@pytest.mark.behaviour("CC-29")
@pytest.mark.behaviour("CC-33")
async def test_a_second_program_that_knows_nothing_of_it_gives_no_installed_seat_back(
    installation: Installation,
) -> None:
    await installation.studio(licensed_by="INSTALLED_INSTANCE", **SHORT)
    node = await installation.node()
    held = await node.check_out(installation="/opt/encoder")
    await named(node, held)
    await node.close()
    second = await twin(node)
    await second.check_out(installation="/opt/encoder")  # its answer is lost
    await second.heartbeat(**knowing((await second.heartbeat()).reconcile))
    await installation.pass_by(20)
    assert await counts(installation) == (4, 1, 0, 3)


@pytest.mark.behaviour("CC-29")
@pytest.mark.behaviour("CC-33")
async def test_a_growth_of_an_installed_seat_that_was_never_named_comes_back_by_silence(
    installation: Installation,
) -> None:
    await installation.studio(licensed_by="INSTALLED_INSTANCE", **SHORT)
    node = await installation.node()
    await named(node, await node.check_out(installation="/opt/encoder"))
    await node.check_out(installation="/opt/encoder", quantity=3)  # its answer is lost, and its client dies
    await installation.pass_by(9)
    assert await counts(installation) == (4, 1, 0, 3)


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
