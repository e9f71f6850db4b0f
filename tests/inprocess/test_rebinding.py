"""A node name enrolled anew: only on request, with its old seats charged to the old pool until they are given back."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from poolkeeper.v1 import admin_pb2, licensing_pb2
from tests.inprocess.installation import Installation, NodeClient, Refused
from tests.inprocess.ledgers import entries
from tests.inprocess.steps import SHORT, counts, named, reason_of

WEST, EAST = "estates/acme/pools/west", "estates/acme/pools/east"
NODE = "estates/acme/nodes/studio-7"


async def two_pools(installation: Installation, *, east: int = 2, **settings: Any) -> None:
    await installation.studio(seats=2, licensed_by="INSTALLED_INSTANCE", **settings)
    await installation.new_pool("east", moves={"SO-1": east} if east else None, **settings)


async def rebound(installation: Installation, node: NodeClient | None = None) -> NodeClient:
    """The name is taken, into pool east, by another machine or by that node itself."""
    node = node or replace(installation.stranger(), requests=itertools.count(1_000))
    await node.enrol(EAST, await installation.code("studio-7", EAST, replace=True))
    await node.open()
    return node


async def rebound_in_west(installation: Installation) -> NodeClient:
    """The name is taken by another machine, into the same pool."""
    node = replace(installation.stranger(), requests=itertools.count(1_000))
    await node.enrol(WEST, await installation.code("studio-7", WEST, replace=True))
    await node.open()
    return node


async def migrate(installation: Installation) -> admin_pb2.MigrateNodeResponse:
    found: admin_pb2.MigrateNodeResponse = await installation.admin.nodes.MigrateNode(
        admin_pb2.MigrateNodeRequest(name=NODE)
    )
    return found


@pytest.mark.behaviour("CC-8")
async def test_a_code_for_a_name_that_is_enrolled_must_ask_to_replace_it(installation: Installation) -> None:
    await installation.studio()
    await installation.node()
    with pytest.raises(Refused) as refused:
        await installation.code("studio-7")
    assert refused.value.reason == "ALREADY_EXISTS"
    assert "--replace" in refused.value.hint
    assert len(await installation.code("studio-7", replace=True)) == 8
    assert len(await installation.code("studio-8")) == 8


@pytest.mark.behaviour("CC-8")
async def test_a_code_issued_before_the_name_was_taken_does_not_replace_it(installation: Installation) -> None:
    await installation.studio()
    early = await installation.code("studio-7")
    node = await installation.node()
    with pytest.raises(Refused) as refused:
        await installation.stranger().enrol(WEST, early)
    assert refused.value.reason == "CODE_NOT_ACCEPTED"
    assert (await node.check_out()).quantity == 1


@pytest.mark.behaviour("CC-8")
async def test_replacing_binds_the_name_to_the_new_key_and_the_new_pool(installation: Installation) -> None:
    await two_pools(installation)
    old = await installation.node()
    new = await rebound(installation)
    assert new.name == NODE
    granted = await new.check_out(installation="i1")
    assert granted.allocation.name.startswith(f"{EAST}/allocations/")
    assert await reason_of(old.open()) == "NODE_REBOUND"
    shown = await installation.admin.nodes.GetNode(admin_pb2.GetNodeRequest(name=NODE))
    assert [binding.pool for binding in shown.bindings] == [EAST]
    listed = await installation.admin.nodes.ListNodes(admin_pb2.ListNodesRequest(parent=WEST))
    assert list(listed.nodes) == []


@pytest.mark.behaviour("CC-8")
async def test_until_the_code_is_redeemed_nothing_changes(installation: Installation) -> None:
    await two_pools(installation)
    node = await installation.node()
    await installation.code("studio-7", EAST, replace=True)
    assert (await node.check_out(installation="i1")).allocation.name.startswith(WEST)
    await node.open()


@pytest.mark.behaviour("CC-8")
async def test_a_machine_can_be_bound_anew_with_the_key_it_has(installation: Installation) -> None:
    await two_pools(installation)
    node = await installation.node()
    await rebound(installation, node)
    assert (await node.check_out(installation="i1")).allocation.name.startswith(EAST)


@pytest.mark.behaviour("CC-8")
async def test_installed_seats_stay_charged_to_the_old_pool(installation: Installation) -> None:
    await two_pools(installation, **SHORT)
    old = await installation.node()
    await named(old, await old.check_out(installation="i1"))
    await rebound(installation)
    await installation.pass_by(20)
    assert await counts(installation, WEST) == (2, 1, 0, 1)
    assert await counts(installation, EAST) == (2, 0, 0, 2)


@pytest.mark.behaviour("CC-8")
async def test_an_installation_that_asks_again_takes_no_second_seat(installation: Installation) -> None:
    await two_pools(installation)
    old = await installation.node()
    held = await old.check_out(installation="i1")
    new = await rebound(installation)
    await old.close()
    again = await new.check_out(installation="i1")
    assert again.allocation.name == held.allocation.name
    assert await counts(installation, WEST) == (2, 1, 0, 1)
    assert await counts(installation, EAST) == (2, 0, 0, 2)


async def let_go(old: NodeClient, held: licensing_pb2.Granted) -> None:
    await old.acknowledge(held.allocation.name, held.fence)


async def give_back(old: NodeClient, held: licensing_pb2.Granted) -> None:
    await old.check_in(held.allocation.name)


async def close(old: NodeClient, _: licensing_pb2.Granted) -> None:
    await old.close()


@pytest.mark.behaviour("CC-8")
@pytest.mark.behaviour("CC-33")
@pytest.mark.parametrize("farewell", [let_go, give_back, close])
async def test_a_successor_waits_until_the_machine_before_it_has_let_go(
    installation: Installation, farewell: Callable[[NodeClient, licensing_pb2.Granted], Awaitable[None]]
) -> None:
    await two_pools(installation)
    old = await installation.node()
    held = await old.check_out(installation="i1")
    await named(old, held)
    new = await rebound(installation)
    with pytest.raises(Refused) as refused:
        await new.check_out(installation="i1")
    assert refused.value.reason == "NO_SEAT_AVAILABLE"
    assert "--force" in refused.value.hint
    await farewell(old, held)
    assert (await new.check_out(installation="i1")).allocation.name == held.allocation.name


@pytest.mark.behaviour("CC-8")
@pytest.mark.behaviour("CC-33")
async def test_a_successor_waits_for_the_promise_of_a_machine_that_is_out_of_contact(
    installation: Installation,
) -> None:
    await two_pools(installation, continuation=60, **SHORT)
    old = await installation.node()
    await named(old, await old.check_out(installation="i1"))
    await installation.pass_by(9)
    new = await rebound(installation)
    assert await reason_of(new.check_out(installation="i1")) == "NO_SEAT_AVAILABLE"
    for _ in range(9):
        await installation.pass_by(5.94)
        await new.heartbeat()
    assert await reason_of(new.check_out(installation="i1")) == "NO_SEAT_AVAILABLE"
    await installation.pass_by(0.1)
    assert (await new.check_out(installation="i1")).quantity == 1
    assert await counts(installation, WEST) == (2, 1, 0, 1)


@pytest.mark.behaviour("CC-33")
async def test_a_successor_gives_back_only_what_the_machine_before_it_uses_no_more(
    installation: Installation,
) -> None:
    await two_pools(installation, continuation=60, **SHORT)
    old = await installation.node()
    held = await old.check_out(installation="i1")
    await named(old, held)
    await installation.pass_by(9)
    new = await rebound(installation)
    given = await new.check_in(held.allocation.name)
    assert given.state == licensing_pb2.ALLOCATION_STATE_REVOKED
    await installation.pass_by(53)
    assert await counts(installation, WEST) == (2, 1, 0, 1)
    await installation.pass_by(0.5)
    assert await counts(installation, WEST) == (2, 0, 0, 2)


@pytest.mark.behaviour("CC-33")
async def test_a_successor_shares_no_leased_seat_with_the_machine_before_it(installation: Installation) -> None:
    await installation.studio(seats=2, **SHORT)
    old = await installation.node()
    await old.check_out(consumer="ann")
    new = await rebound_in_west(installation)
    assert await reason_of(new.check_out(consumer="ann")) == "NO_SEAT_AVAILABLE"
    await old.close()
    assert (await new.check_out(consumer="ann")).quantity == 1


@pytest.mark.behaviour("CC-8")
async def test_checking_in_frees_the_seat_of_the_old_pool(installation: Installation) -> None:
    await two_pools(installation)
    old = await installation.node()
    held = await old.check_out(installation="i1")
    new = await rebound(installation)
    await old.close()
    assert [one.name for one in await new.allocations()] == [held.allocation.name]
    await new.check_in(held.allocation.name)
    assert await counts(installation, WEST) == (2, 0, 0, 2)
    assert (await new.check_out(installation="i1")).allocation.name.startswith(EAST)


@pytest.mark.behaviour("CC-8")
async def test_migrating_moves_the_installed_seats_to_the_new_pool(installation: Installation) -> None:
    await two_pools(installation)
    old = await installation.node()
    held = [await old.check_out(installation=name) for name in ("i1", "i2")]
    new = await rebound(installation)
    await old.close()
    moved = (await migrate(installation)).allocations
    assert {one.name for one in moved} == {one.allocation.name.replace(WEST, EAST) for one in held}
    assert {one.allocate_time.ToMicroseconds() for one in moved} == {held[0].allocation.allocate_time.ToMicroseconds()}
    assert await counts(installation, WEST) == (2, 0, 0, 2)
    assert await counts(installation, EAST) == (2, 2, 0, 0)
    assert len(await entries(installation, WEST, "MIGRATED_OUT")) == 2
    assert len(await entries(installation, EAST, "MIGRATED_IN")) == 2
    assert (await new.check_out(installation="i1")).allocation.name == moved[0].name
    await new.check_in(moved[1].name)
    assert await counts(installation, EAST) == (2, 1, 0, 1)


@pytest.mark.behaviour("CC-8")
async def test_seats_that_do_not_all_fit_are_not_migrated(installation: Installation) -> None:
    await two_pools(installation, east=1)
    old = await installation.node()
    for name in ("i1", "i2"):
        await old.check_out(installation=name)
    await rebound(installation)
    assert await reason_of(migrate(installation)) == "NO_SEAT_AVAILABLE"
    assert await counts(installation, WEST) == (2, 2, 0, 0)
    assert await counts(installation, EAST) == (1, 0, 0, 1)


@pytest.mark.behaviour("CC-8")
async def test_leased_seats_end_with_their_promise(installation: Installation) -> None:
    await installation.studio(seats=2, **SHORT)
    await installation.new_pool("east", moves={"SO-1": 2}, **SHORT)
    old = await installation.node()
    await old.check_out()
    new = await rebound(installation)
    assert (await new.check_out()).allocation.name.startswith(EAST)
    await installation.pass_by(6)
    await new.heartbeat()
    await installation.pass_by(2.49)
    assert await counts(installation, WEST) == (2, 1, 0, 1)
    await installation.pass_by(0.01)
    assert await counts(installation, WEST) == (2, 0, 0, 2)
    assert await counts(installation, EAST) == (2, 1, 0, 1)


@pytest.mark.behaviour("CC-8")
async def test_a_machine_that_numbers_its_requests_alike_takes_over_no_leased_seat(installation: Installation) -> None:
    await installation.studio(seats=2)
    await installation.new_pool("east", moves={"SO-1": 2})
    old = await installation.node()
    held = await old.check_out(request_id="r-1")
    new = await rebound(installation)
    # The old machine may believe in its seat to the end of the promise; the same words are no claim to it.
    assert await reason_of(new.check_out(request_id="r-1")) == "LEASE_EXPIRED"
    assert await counts(installation, WEST) == (2, 1, 0, 1)
    await old.acknowledge(held.allocation.name, held.fence)
    assert await counts(installation, WEST) == (2, 0, 0, 2)


@pytest.mark.behaviour("CC-8")
async def test_a_domain_that_is_bound_must_be_replaced_too(installation: Installation) -> None:
    await two_pools(installation)
    node = await installation.node()
    await node.enrol(WEST, await installation.code("studio-7", WEST, domain="news"))
    with pytest.raises(Refused) as refused:
        await installation.code("studio-7", EAST, domain="news")
    assert refused.value.reason == "ALREADY_EXISTS"
    assert len(await installation.code("studio-7", EAST, domain="sport")) == 8
    enrolled = await node.enrol(EAST, await installation.code("studio-7", EAST, domain="news", replace=True))
    assert (enrolled.pool, enrolled.domain) == (EAST, "news")
    assert (await node.open(domain="news")).pool == EAST
    assert (await node.open()).pool == WEST
