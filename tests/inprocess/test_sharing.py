"""Seats that several sessions share, and what a pool counts as one."""

from __future__ import annotations

import pytest

from tests.inprocess.installation import Installation
from tests.inprocess.steps import SHORT, counts, reason_of, register, talking, twin, unticked, update


@pytest.mark.behaviour("CC-30")
async def test_sessions_share_the_seat_of_a_registered_consumer(installation: Installation) -> None:
    await installation.studio()
    await register(installation, "ann")
    node, other = await installation.node("a"), await installation.node("b")
    first, second = await node.check_out(consumer="ann"), await other.check_out(consumer="ann")
    assert first.allocation.name == second.allocation.name
    assert await counts(installation) == (4, 1, 0, 3)


@pytest.mark.behaviour("CC-30")
async def test_a_free_name_is_shared_by_the_sessions_of_one_node_only(installation: Installation) -> None:
    await installation.studio()
    node, other = await installation.node("a"), await installation.node("b")
    second = await twin(node)
    first = await node.check_out(consumer="ann")
    assert (await second.check_out(consumer="ann")).allocation.name == first.allocation.name
    assert (await other.check_out(consumer="ann")).allocation.name != first.allocation.name


@pytest.mark.behaviour("CC-30")
async def test_a_shared_seat_ends_with_its_last_use(installation: Installation) -> None:
    await installation.studio()
    await register(installation, "ann")
    node, other = await installation.node("a"), await installation.node("b")
    shared = await node.check_out(consumer="ann")
    await other.check_out(consumer="ann")
    await node.check_in(shared.allocation.name)
    assert await counts(installation) == (4, 1, 0, 3)
    await other.check_in(shared.allocation.name)
    assert await counts(installation) == (4, 0, 0, 4)


@pytest.mark.behaviour("CC-30")
async def test_a_shared_seat_outlives_a_session_that_falls_silent(installation: Installation) -> None:
    await installation.studio(**SHORT)
    await register(installation, "ann")
    node, other = await installation.node("a"), await installation.node("b")
    await node.check_out(consumer="ann")
    shared = await other.check_out(consumer="ann")
    for _ in range(3):
        await installation.pass_by(4)
        assert (await other.heartbeat(shared)).reconcile == 0
    assert await counts(installation) == (4, 1, 0, 3)
    await other.close()
    assert await counts(installation) == (4, 0, 0, 4)


@pytest.mark.behaviour("CC-30")
async def test_a_shared_seat_is_sized_by_its_largest_use(installation: Installation) -> None:
    await installation.studio(seats=5)
    await register(installation, "ann")
    node, other = await installation.node("a"), await installation.node("b")
    small, large = await node.check_out(consumer="ann", quantity=2), await other.check_out(consumer="ann", quantity=4)
    assert (large.quantity, large.allocation.quantity) == (4, 4)
    assert await counts(installation) == (5, 4, 0, 1)
    assert (await node.heartbeat(small)).reconcile == 0
    await other.check_in(large.allocation.name)
    assert await counts(installation) == (5, 2, 0, 3)


@pytest.mark.behaviour("CC-30")
async def test_asking_for_less_keeps_what_another_use_needs(installation: Installation) -> None:
    await installation.studio(seats=5)
    await register(installation, "ann")
    node, other = await installation.node("a"), await installation.node("b")
    await node.check_out(consumer="ann", quantity=3)
    await other.check_out(consumer="ann", quantity=5)
    less = await other.check_out(consumer="ann", quantity=1)
    assert (less.quantity, less.allocation.quantity) == (1, 3)


@pytest.mark.behaviour("CC-30")
async def test_a_sharer_lists_the_seat_that_another_node_took_first(installation: Installation) -> None:
    await installation.studio()
    await register(installation, "ann")
    node, other = await installation.node("a"), await installation.node("b")
    await node.check_out(consumer="ann")
    shared = await other.check_out(consumer="ann")
    assert [one.name for one in await other.allocations()] == [shared.allocation.name]


@pytest.mark.behaviour("CC-30")
async def test_growing_a_shared_seat_while_its_other_user_runs_out_counts_right(installation: Installation) -> None:
    await installation.studio(seats=2, **SHORT)
    await register(installation, "ann")
    gone, node, witness = [await installation.node(name) for name in ("a", "b", "c")]
    await gone.check_out(consumer="ann")
    await gone.check_out()
    await unticked(installation, witness, 9)
    grown = await node.check_out(consumer="ann", quantity=2)
    assert await counts(installation) == (2, 2, 0, 0)
    await node.check_in(grown.allocation.name)
    await installation.pass_by(1)
    assert await counts(installation) == (2, 0, 0, 2)


@pytest.mark.behaviour("CC-30")
async def test_a_session_that_ends_half_way_through_a_batch_loses_all_its_seats(installation: Installation) -> None:
    await installation.studio(seats=4, **SHORT)
    await register(installation, "ann")
    gone, node, waiter = [await installation.node(name) for name in ("a", "b", "c")]
    await gone.check_out(consumer="ann")
    await gone.check_out()
    shared = await node.check_out(consumer="ann", quantity=3)
    for _ in range(3):
        await unticked(installation, waiter, 3)
        await node.heartbeat(shared)
    async with talking(waiter) as talk:
        id_, _ = await talk.wait_for(60, quantity=3)
        await node.check_in(shared.allocation.name)
        await installation.pass_by(1)
        assert (await talk.answer(id_)).check_out.granted.quantity == 3
    assert await counts(installation) == (4, 3, 0, 1)


@pytest.mark.behaviour("CC-30")
async def test_a_sharer_that_takes_over_a_smaller_use_keeps_what_it_needs_itself(installation: Installation) -> None:
    await installation.studio()
    node = await installation.node()
    second = await twin(node)
    await node.check_out(consumer="ann", quantity=3)
    await second.check_out(consumer="ann", request_id="theirs")
    taken = await node.check_out(consumer="ann", request_id="theirs")
    assert (taken.quantity, (await counts(installation))[1]) == (3, 3)
    assert (await node.heartbeat(taken)).reconcile == 0
    assert (await second.heartbeat()).reconcile == 0


async def test_a_pool_that_counts_users_gives_a_user_one_seat(installation: Installation) -> None:
    await installation.studio(counting="COUNTING_USER")
    node = await installation.node()
    second = await twin(node)
    first = await node.check_out(user="ann", consumer="camera-1", host="h1")
    assert (await second.check_out(user="ann", consumer="camera-2", host="h2")).allocation.name == first.allocation.name
    assert (await node.check_out(user="bob")).allocation.name != first.allocation.name
    assert await counts(installation) == (4, 2, 0, 2)


async def test_a_pool_that_counts_hosts_gives_a_host_one_seat(installation: Installation) -> None:
    await installation.studio(counting="COUNTING_HOST")
    node = await installation.node()
    first = await node.check_out(user="ann", host="h1")
    assert (await node.check_out(user="bob", host="h1")).allocation.name == first.allocation.name
    assert (await node.check_out(user="ann", host="h2")).allocation.name != first.allocation.name


async def test_a_pool_that_counts_users_on_hosts_gives_each_pair_a_seat(installation: Installation) -> None:
    await installation.studio(counting="COUNTING_USER_HOST")
    node = await installation.node()
    first = await node.check_out(user="ann", host="h1")
    assert (await node.check_out(user="ann", host="h1")).allocation.name == first.allocation.name
    assert (await node.check_out(user="ann", host="h2")).allocation.name != first.allocation.name
    assert (await node.check_out(user="bob", host="h1")).allocation.name != first.allocation.name


async def test_two_nodes_do_not_meet_on_a_free_user_name(installation: Installation) -> None:
    await installation.studio(counting="COUNTING_USER")
    node, other = await installation.node("a"), await installation.node("b")
    first, second = await node.check_out(user="ann"), await other.check_out(user="ann")
    assert first.allocation.name != second.allocation.name


async def test_a_registered_consumer_s_user_and_host_are_counted(installation: Installation) -> None:
    await installation.studio(counting="COUNTING_USER")
    await register(installation, "camera-1", user="ann")
    await register(installation, "camera-2", user="ann")
    node, other = await installation.node("a"), await installation.node("b")
    first, second = await node.check_out(consumer="camera-1"), await other.check_out(consumer="camera-2")
    assert first.allocation.name == second.allocation.name


async def test_a_pool_that_counts_otherwise_from_now_on_keeps_what_is_held(installation: Installation) -> None:
    await installation.studio(seats=2)
    node = await installation.node()
    held = await node.check_out(consumer="ann", user="u")
    await update(installation, counting="COUNTING_USER")
    await node.check_out(consumer="ann", user="u")
    assert await reason_of(node.check_out(consumer="bob", user="v")) == "NO_SEAT_AVAILABLE"
    await node.check_in(held.allocation.name)
    assert await counts(installation) == (2, 1, 0, 1)
