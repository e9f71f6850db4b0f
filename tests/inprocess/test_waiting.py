"""Waiting for a seat: first come, first served, and never a seat for one who has stopped waiting."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from poolkeeper.v1 import admin_pb2, licensing_pb2
from tests.inprocess.installation import BEGINNING, Installation, NodeClient, Refused, answer, span
from tests.inprocess.steps import (
    SHORT,
    Talk,
    close_pool,
    counts,
    move,
    queued,
    reason_of,
    refusal,
    release,
    talking,
    unticked,
)

ACTIVE = licensing_pb2.ALLOCATION_STATE_ACTIVE
ENDED = licensing_pb2.ALLOCATION_STATE_ENDED


def cancel(request_id: str) -> licensing_pb2.CancelWaitRequest:
    return licensing_pb2.CancelWaitRequest(request_id=request_id)


@pytest.mark.behaviour("CC-18")
async def test_a_unary_check_out_waits_until_a_seat_is_free(installation: Installation) -> None:
    await installation.studio(seats=1)
    node, other = await installation.node("a"), await installation.node("b")
    held = await node.check_out()
    waiting = asyncio.create_task(other.check_out(wait=span(60)))
    await queued(installation, 1)
    assert not waiting.done()
    await node.check_in(held.allocation.name)
    granted = await waiting
    assert granted.provisional
    assert (await other.acknowledge(granted.allocation.name, granted.fence)).state == ACTIVE


@pytest.mark.behaviour("CC-18")
async def test_waiters_are_served_in_the_order_in_which_they_came(installation: Installation) -> None:
    await installation.studio(seats=1)
    holder = await installation.node("holder")
    held = await holder.check_out()
    async with AsyncExitStack() as stack:
        waiters: list[tuple[NodeClient, Talk, int]] = []
        for name in ("a", "b", "c"):
            node = await installation.node(name)
            talk = await stack.enter_async_context(talking(node))
            id_, first = await talk.wait_for(60)
            assert first.check_out.waiting.place == len(waiters) + 1
            waiters.append((node, talk, id_))
        await holder.check_in(held.allocation.name)
        for node, talk, id_ in waiters:
            granted = (await talk.answer(id_)).check_out.granted
            assert granted.allocation.node == node.name
            await node.check_in(granted.allocation.name)
    assert await counts(installation) == (1, 0, 0, 1)


@pytest.mark.behaviour("CC-18")
async def test_a_small_request_does_not_pass_a_larger_one(installation: Installation) -> None:
    await installation.studio(seats=3)
    holder, large, small = [await installation.node(name) for name in ("holder", "large", "small")]
    held, kept = await holder.check_out(quantity=2), await holder.check_out()
    async with talking(large) as first, talking(small) as second:
        first_id, _ = await first.wait_for(60, quantity=3)
        second_id, _ = await second.wait_for(60)
        await holder.check_in(held.allocation.name)
        assert await counts(installation) == (3, 1, 0, 2)
        await holder.check_in(kept.allocation.name)
        granted = (await first.answer(first_id)).check_out.granted
        assert granted.quantity == 3
        await large.check_in(granted.allocation.name)
        assert (await second.answer(second_id)).check_out.granted.quantity == 1


@pytest.mark.behaviour("CC-18")
async def test_newcomers_are_denied_while_others_wait(installation: Installation) -> None:
    await installation.studio(seats=3)
    node, other = await installation.node("a"), await installation.node("b")
    await node.check_out()
    async with talking(node) as talk:
        await talk.wait_for(60, quantity=3)
        with pytest.raises(Refused) as refused:
            await other.check_out()
        assert refused.value.denial.counts.available == 2
        _, second = await talk.wait_for(60)
        assert second.check_out.waiting.place == 2


@pytest.mark.behaviour("CC-18")
async def test_products_have_queues_of_their_own(installation: Installation) -> None:
    await installation.estate()
    for product in ("encoder", "decoder"):
        await installation.product(product)
        await installation.licence(1, product=product, order=product)
    await installation.new_pool(moves={"encoder": 1, "decoder": 1})
    node, other = await installation.node("a"), await installation.node("b")
    await node.check_out("encoder")
    async with talking(node) as talk:
        await talk.wait_for(60, "encoder")
        assert (await other.check_out("decoder")).quantity == 1


@pytest.mark.behaviour("CC-18")
async def test_pools_have_queues_of_their_own(installation: Installation) -> None:
    await installation.studio(seats=1)
    await installation.new_pool("east", moves={"SO-1": 1})
    node, other = await installation.node("a"), await installation.node("b", "estates/acme/pools/east")
    await node.check_out()
    async with talking(node) as talk:
        await talk.wait_for(60)
        assert (await other.check_out()).quantity == 1


@pytest.mark.behaviour("CC-18")
async def test_a_waiter_is_told_when_its_place_changes(installation: Installation) -> None:
    await installation.studio(seats=1)
    holder, first, second = [await installation.node(name) for name in ("holder", "first", "second")]
    held = await holder.check_out()
    async with talking(first) as ahead, talking(second) as behind:
        await ahead.wait_for(60)
        id_, told = await behind.wait_for(60)
        assert told.check_out.waiting.place == 2
        await holder.check_in(held.allocation.name)
        await installation.daemon.housekeeping.tell()
        assert (await behind.answer(id_)).check_out.waiting.place == 1


@pytest.mark.behaviour("CC-18")
async def test_a_waiter_is_told_when_a_seat_is_expected(installation: Installation) -> None:
    await installation.studio(seats=2, minimum_allocation=30)
    node, other = await installation.node("a"), await installation.node("b")
    first, second = await node.check_out(), await node.check_out()
    await node.check_in(first.allocation.name)
    await installation.pass_by(3)
    await node.check_in(second.allocation.name)
    await node.close()
    async with talking(other) as talk:
        _, told = await talk.wait_for(60, quantity=2)
        assert told.check_out.waiting.estimate_time.ToMicroseconds() == BEGINNING + 30_000_000


@pytest.mark.behaviour("CC-18")
async def test_a_new_place_comes_with_a_new_estimate(installation: Installation) -> None:
    await installation.studio(seats=1, minimum_allocation=30)
    node, ahead, behind = [await installation.node(name) for name in ("a", "b", "c")]
    await node.check_in((await node.check_out()).allocation.name)
    async with talking(ahead) as first, talking(behind) as second:
        await first.wait_for(60, request_id="ahead")
        id_, told = await second.wait_for(60)
        assert not told.check_out.waiting.HasField("estimate_time")
        await first.ask(cancel_wait=cancel("ahead"))
        await installation.daemon.housekeeping.tell()
        told = await second.answer(id_)
        assert told.check_out.waiting.place == 1
        assert told.check_out.waiting.estimate_time.ToMicroseconds() == BEGINNING + 30_000_000


@pytest.mark.behaviour("CC-18")
async def test_a_unary_wait_ends_with_a_denial_that_tells_place_and_estimate(installation: Installation) -> None:
    await installation.studio(seats=1, minimum_allocation=60)
    node, other = await installation.node("a"), await installation.node("b")
    await node.check_in((await node.check_out()).allocation.name)
    waiting = asyncio.create_task(other.check_out(wait=span(10)))
    await queued(installation, 1)
    await installation.pass_by(10)
    with pytest.raises(Refused) as refused:
        await waiting
    assert refused.value.reason == "WAIT_EXPIRED"
    assert refused.value.denial.place == 1
    assert refused.value.denial.next_free_time.ToMicroseconds() == BEGINNING + 60_000_000


@pytest.mark.behaviour("CC-18")
async def test_a_waiter_whose_time_is_over_gets_no_seat(installation: Installation) -> None:
    await installation.studio(seats=1)
    node, other = await installation.node("a"), await installation.node("b")
    held = await node.check_out()
    async with talking(other) as talk:
        id_, _ = await talk.wait_for(10)
        await installation.pass_by(10)
        assert refusal(await talk.answer(id_)).reason == "WAIT_EXPIRED"
    await node.check_in(held.allocation.name)
    assert await counts(installation) == (1, 0, 0, 1)


@pytest.mark.behaviour("CC-18")
async def test_a_seat_that_comes_free_when_a_wait_is_just_over_goes_to_nobody(installation: Installation) -> None:
    await installation.studio(seats=1)
    node, other = await installation.node("a"), await installation.node("b")
    held = await node.check_out()
    async with talking(other) as talk:
        id_, _ = await talk.wait_for(3)
        await unticked(installation, node, 3)
        await node.check_in(held.allocation.name)
        assert refusal(await talk.answer(id_)).reason == "WAIT_EXPIRED"
    assert await counts(installation) == (1, 0, 0, 1)


@pytest.mark.behaviour("CC-18")
async def test_a_waiter_s_grant_that_nobody_acknowledges_goes_to_the_next(installation: Installation) -> None:
    await installation.studio(seats=1, minimum_allocation=60)
    holder, first, second = [await installation.node(name) for name in ("holder", "first", "second")]
    held = await holder.check_out()
    async with talking(first) as gone, talking(second) as there:
        gone_id, _ = await gone.wait_for(90)
        there_id, _ = await there.wait_for(90)
        await release(installation, held.allocation.name, force=True, no_quarantine=True)
        granted = (await gone.answer(gone_id)).check_out.granted
        await installation.pass_by(10)
        await first.heartbeat(granted)
        assert (await first.acknowledge(granted.allocation.name, granted.fence)).state == ENDED
        assert (await there.answer(there_id)).check_out.granted.allocation.node == second.name
    assert await counts(installation) == (1, 1, 0, 0)


@pytest.mark.behaviour("CC-18")
async def test_an_acknowledged_grant_is_held_like_any_other(installation: Installation) -> None:
    await installation.studio(seats=1)
    node, other = await installation.node("a"), await installation.node("b")
    held = await node.check_out()
    async with talking(other) as talk:
        id_, _ = await talk.wait_for(60)
        await node.check_in(held.allocation.name)
        granted = (await talk.answer(id_)).check_out.granted
        assert granted.provisional
        asked = licensing_pb2.AcknowledgeRequest(allocation=granted.allocation.name, fence=granted.fence)
        assert (await talk.ask(acknowledge=asked)).acknowledge.allocation.state == ACTIVE
    await installation.pass_by(20)
    assert (await other.heartbeat(granted)).reconcile == 0
    assert await counts(installation) == (1, 1, 0, 0)


@pytest.mark.behaviour("CC-18")
async def test_who_cancels_leaves_the_queue_to_the_next(installation: Installation) -> None:
    await installation.studio(seats=2)
    node, other = await installation.node("a"), await installation.node("b")
    await node.check_out()
    async with talking(node) as large, talking(other) as small:
        await large.wait_for(60, quantity=2, request_id="large")
        id_, _ = await small.wait_for(60)
        assert (await large.ask(cancel_wait=cancel("large"))).HasField("cancel_wait")
        assert (await small.answer(id_)).check_out.granted.quantity == 1


@pytest.mark.behaviour("CC-18")
async def test_a_grant_that_crossed_a_cancellation_is_taken_back(installation: Installation) -> None:
    await installation.studio(seats=1, minimum_allocation=60)
    node, other = await installation.node("a"), await installation.node("b")
    held = await node.check_out()
    async with talking(other) as talk:
        id_, _ = await talk.wait_for(60, request_id="crossed")
        await release(installation, held.allocation.name, force=True, no_quarantine=True)
        await talk.answer(id_)
        await talk.ask(cancel_wait=cancel("crossed"))
    assert await counts(installation) == (1, 0, 0, 1)


@pytest.mark.behaviour("CC-18")
async def test_a_unary_caller_who_goes_away_leaves_the_queue(installation: Installation) -> None:
    await installation.studio(seats=1)
    node, other = await installation.node("a"), await installation.node("b")
    await node.check_out()
    asked = licensing_pb2.CheckOutRequest(product="encoder", request_id="gone", wait=span(60))
    call = other.stub.CheckOut(asked, metadata=other.metadata)
    await queued(installation, 1)
    call.cancel()
    await queued(installation, 0)


@pytest.mark.behaviour("CC-18")
async def test_a_waiter_keeps_its_place_over_a_restart_and_a_new_connection(installation: Installation) -> None:
    await installation.studio(seats=1)
    nodes = [await installation.node(name) for name in ("holder", "first", "second")]
    holder, first, second = nodes
    held = await holder.check_out()
    async with talking(first) as one, talking(second) as two:
        await one.wait_for(60, request_id="w")
        await two.wait_for(60, request_id="w")
    await installation.restart()
    for node in nodes:
        node.channel = installation.channel
    async with talking(second) as two, talking(first) as one:
        two_id, told = await two.wait_for(60, request_id="w")
        assert told.check_out.waiting.place == 2
        one_id, told = await one.wait_for(60, request_id="w")
        assert told.check_out.waiting.place == 1
        await holder.check_in(held.allocation.name)
        granted = (await one.answer(one_id)).check_out.granted
        await first.check_in(granted.allocation.name)
        assert (await two.answer(two_id)).check_out.granted.provisional


@pytest.mark.behaviour("CC-18")
async def test_a_grant_made_while_its_waiter_was_away_is_found_by_its_retry(installation: Installation) -> None:
    await installation.studio(seats=1)
    node, other = await installation.node("a"), await installation.node("b")
    held = await node.check_out()
    async with talking(other) as talk:
        await talk.wait_for(60, request_id="w")
    await node.check_in(held.allocation.name)
    async with talking(other) as talk:
        _, told = await talk.wait_for(60, request_id="w")
        assert told.check_out.granted.provisional
    assert await counts(installation) == (1, 1, 0, 0)


@pytest.mark.behaviour("CC-18")
async def test_a_waiter_may_grow_what_it_has_although_others_wait_behind_it(installation: Installation) -> None:
    await installation.studio(seats=3)
    node, other, behind = [await installation.node(name) for name in ("a", "b", "c")]
    await node.check_out(consumer="ann")
    held = await other.check_out(quantity=2)
    async with talking(node) as talk, talking(behind) as last:
        id_, _ = await talk.wait_for(60, consumer="ann", quantity=2)
        last_id, _ = await last.wait_for(60)
        await other.check_in(held.allocation.name)
        assert (await talk.answer(id_)).check_out.granted.quantity == 2
        assert (await last.answer(last_id)).check_out.granted.quantity == 1


@pytest.mark.behaviour("CC-18")
async def test_a_waiter_whose_session_has_run_out_is_told_and_gets_no_seat(installation: Installation) -> None:
    await installation.studio(seats=1, **SHORT)
    node, other, witness = [await installation.node(name) for name in ("a", "b", "c")]
    held = await node.check_out()
    waiting = asyncio.create_task(other.check_out(wait=span(60)))
    await queued(installation, 1)
    for _ in range(3):
        await unticked(installation, witness, 3)
        await node.heartbeat(held)
    await node.check_in(held.allocation.name)
    await installation.pass_by(1)
    assert await counts(installation) == (1, 0, 0, 1)
    assert await asyncio.wait_for(reason_of(waiting), timeout=5) == "LEASE_EXPIRED"


@pytest.mark.behaviour("CC-18")
async def test_queueing_up_keeps_account_of_what_the_session_has_just_lost(installation: Installation) -> None:
    await installation.studio(seats=2, **SHORT)
    node, other = await installation.node("a"), await installation.node("b")
    lost, kept = await node.check_out(), await other.check_out()
    await release(installation, lost.allocation.name)
    await unticked(installation, other, 4)
    await node.heartbeat(lost)
    await unticked(installation, other, 5)
    async with talking(node) as talk:
        await talk.wait_for(60, quantity=2)
        assert (await node.heartbeat()).reconcile == 0
    assert (await other.heartbeat(kept)).reconcile == 0


@pytest.mark.behaviour("CC-18")
async def test_seats_moved_into_the_pool_go_to_who_waits(installation: Installation) -> None:
    await installation.studio(seats=1)
    node = await installation.node()
    await node.check_out()
    async with talking(node) as talk:
        id_, _ = await talk.wait_for(60)
        await move(installation, "default", "west", L000001=1)
        assert (await talk.answer(id_)).check_out.granted.quantity == 1


@pytest.mark.behaviour("CC-18")
async def test_more_waiters_than_one_batch_looks_at_are_all_served(installation: Installation) -> None:
    await installation.studio(seats=301)
    await move(installation, "west", "default", L000001=300)
    nodes = [await installation.node(name) for name in ("a", "b", "c")]
    await nodes[0].check_out()
    async with AsyncExitStack() as stack:
        talks = [await stack.enter_async_context(talking(node)) for node in nodes]
        waiting = [(talk, (await talk.wait_for(60))[0]) for _ in range(100) for talk in talks]
        await move(installation, "default", "west", L000001=300)
        for talk, id_ in waiting:
            assert (await talk.answer(id_)).check_out.granted.quantity == 1
    assert await counts(installation) == (301, 301, 0, 0)


@pytest.mark.behaviour("CC-18")
async def test_who_waits_is_told_when_the_pool_is_closed(installation: Installation) -> None:
    await installation.studio(seats=1)
    node = await installation.node()
    await node.check_out()
    async with talking(node) as talk:
        id_, _ = await talk.wait_for(60)
        await close_pool(installation)
        assert refusal(await talk.answer(id_)).reason == "POOL_NOT_ACTIVE"


@pytest.mark.behaviour("CC-18")
async def test_a_revoked_node_that_waits_is_passed_over(installation: Installation) -> None:
    await installation.studio(seats=1)
    holder, gone, there = [await installation.node(name) for name in ("holder", "gone", "there")]
    held = await holder.check_out()
    async with talking(gone) as first, talking(there) as second:
        await first.wait_for(60)
        id_, _ = await second.wait_for(60)
        await installation.admin.nodes.RevokeNode(admin_pb2.RevokeNodeRequest(name=gone.name, reason="stolen"))
        await holder.check_in(held.allocation.name)
        assert (await second.answer(id_)).check_out.granted.allocation.node == there.name


@pytest.mark.behaviour("CC-18")
async def test_closing_the_session_ends_its_waiting(installation: Installation) -> None:
    await installation.studio(seats=1)
    node, other = await installation.node("a"), await installation.node("b")
    await node.check_out()
    async with talking(other) as talk:
        id_, _ = await talk.wait_for(60)
        await talk.send(close_session=licensing_pb2.CloseSessionRequest())
        assert refusal(await talk.answer(id_)).reason == "LEASE_EXPIRED"
    assert (await installation.pool()).waiting == 0


@pytest.mark.behaviour("CC-18")
async def test_a_wait_of_more_than_a_day_is_refused(installation: Installation) -> None:
    await installation.studio()
    node = await installation.node()
    assert await reason_of(node.check_out(wait=span(86_401))) == "INVALID_FIELD"


@pytest.mark.behaviour("CC-18")
async def test_a_check_out_in_a_batch_cannot_wait(installation: Installation) -> None:
    await installation.studio(seats=1)
    node = await installation.node()
    asked = licensing_pb2.CheckOutRequest(product="encoder", request_id="r", wait=span(5))
    batch = licensing_pb2.BatchCheckOutRequest(requests=[asked])
    found = await answer(node.stub.BatchCheckOut(batch, metadata=node.metadata))
    assert found.results[0].HasField("error")
