"""Nobody draws from a pool that he is not bound to, whatever his consumer holds there (CC-34)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from poolkeeper.v1 import admin_pb2, errors_pb2
from tests.inprocess.installation import Installation, NodeClient, Refused, span
from tests.inprocess.steps import DAY, counts, move, named, queued, reason_of, refusal, register, talking, twin

EMPTY = "estates/acme/pools/empty"
BIG = "estates/acme/pools/west"
#: What is drawn from is the domain's business; the store only has to find the seats of other pools.
pytestmark = [pytest.mark.behaviour("CC-34"), pytest.mark.parametrize("store", ["sqlite"], indirect=True)]


async def cam(installation: Installation, *, seats: int = 9, empty: int = 0) -> tuple[NodeClient, NodeClient]:
    """Two nodes, of a pool with nine installed seats and of another, for one registered consumer."""
    await installation.studio(seats=seats, licensed_by="INSTALLED_INSTANCE")
    await installation.new_pool("empty", moves={"SO-1": empty} if empty else None)
    await register(installation, "cam")
    return await installation.node("n1"), await installation.node("n2", EMPTY)


async def mismatch(call: object) -> Refused:
    with pytest.raises(Refused) as refused:
        await call  # type: ignore[misc]  # a coroutine
    assert refused.value.reason == "POOL_MISMATCH"
    return refused.value


@pytest.mark.parametrize(
    "asked", [{"quantity": 9}, {"demand": {"units": {"cameras": 2}}}, {"quantity": 2, "wait": span(60)}]
)
async def test_a_node_of_another_pool_enlarges_nothing(installation: Installation, asked: dict[str, object]) -> None:
    await installation.product("units", cameras=1)
    n1, n2 = await cam(installation)
    await installation.licence(9, product="units", licensed_by="INSTALLED_INSTANCE", order="SO-2")
    await move(installation, "default", "west", L000002=9)
    for product in ("encoder", "units"):
        await n1.check_out(product, consumer="cam")
    told = await mismatch(n2.check_out("units", consumer="cam", **asked))
    assert "acme/west" in told.message
    assert "poolkeeper node migrate acme/n1" in told.hint
    assert (told.denial.pool, told.denial.reason) == (BIG, errors_pb2.REASON_POOL_MISMATCH)
    assert dict(told.denial.rejections) == {"POOL_MISMATCH": 1}
    assert await counts(installation) == (18, 2, 0, 16)
    assert (await installation.pool(EMPTY)).waiting == (await installation.pool(BIG)).waiting == 0


async def test_what_is_held_is_shared_and_its_own_pool_s_nodes_enlarge_it(installation: Installation) -> None:
    n1, n2 = await cam(installation)
    n3 = await installation.node("n3")
    held = await n1.check_out(consumer="cam")
    shared = await n2.check_out(consumer="cam")
    assert shared.allocation.name == held.allocation.name
    grown = await n3.check_out(consumer="cam", quantity=4)
    assert (grown.allocation.name, grown.allocation.quantity) == (held.allocation.name, 4)
    assert (await n2.check_out(consumer="cam", quantity=4)).quantity == 4
    assert await counts(installation) == (9, 4, 0, 5)
    await mismatch(n2.check_out(consumer="cam", quantity=5))


async def test_a_node_of_another_pool_gives_up_its_own_use_and_no_other_s(installation: Installation) -> None:
    n1, n2 = await cam(installation)
    await n1.check_out(consumer="cam", quantity=4)
    await n2.check_out(consumer="cam", quantity=4)
    await n2.check_out(consumer="cam", quantity=1)
    assert await counts(installation) == (9, 4, 0, 5)
    await n2.check_out(consumer="cam", quantity=3)
    await n1.check_out(consumer="cam", quantity=2)
    assert await counts(installation) == (9, 3, 0, 6)
    await n2.check_out(consumer="cam", quantity=1)
    assert await counts(installation) == (9, 2, 0, 7)
    await mismatch(n2.check_out(consumer="cam", quantity=3))


async def test_a_node_bound_anew_enlarges_its_old_seats_after_they_have_come_along(installation: Installation) -> None:
    await cam(installation, seats=4, empty=4)
    before = await installation.node("studio-7")
    await named(before, await before.check_out(installation="i1"))
    node = replace(before)
    await node.enrol(EMPTY, await installation.code("studio-7", EMPTY, replace=True))
    await node.open()
    # It is the machine that it was, and lets go of what it was promised as that.
    await before.close()
    told = await mismatch(node.check_out(installation="i1", quantity=2))
    assert "poolkeeper node migrate acme/studio-7" in told.hint
    # What it has it goes on with; nothing is drawn for it.
    assert (await node.check_out(installation="i1")).allocation.name.startswith(BIG)
    assert await counts(installation) == (4, 1, 0, 3)
    await installation.admin.nodes.MigrateNode(admin_pb2.MigrateNodeRequest(name=node.name))
    assert (await node.check_out(installation="i1", quantity=2)).allocation.name.startswith(EMPTY)
    assert await counts(installation, EMPTY) == (4, 2, 0, 2)


@pytest.mark.parametrize("licensed_by", ["INSTALLED_INSTANCE", "CONCURRENT_USER"])
async def test_nobody_takes_up_what_rests_in_another_pool(installation: Installation, licensed_by: str) -> None:
    await installation.studio(seats=2, licensed_by=licensed_by, minimum_allocation=60)
    await installation.new_pool("empty", moves={"SO-1": 1}, minimum_allocation=60)
    await register(installation, "cam")
    n1, n2 = await installation.node("n1"), await installation.node("n2", EMPTY)
    # Something rests in either pool, so that what rests for the consumer is looked for.
    await n2.check_in((await n2.check_out(consumer="other")).allocation.name)
    await n1.check_in((await n1.check_out(consumer="cam")).allocation.name)
    assert await reason_of(n2.check_out(consumer="cam")) == "NO_SEAT_AVAILABLE"
    assert await counts(installation) == (2, 0, 1, 1)
    assert (await n1.check_out(consumer="cam")).resumed


async def test_a_waiter_whose_consumer_gets_a_seat_elsewhere_draws_nothing_from_there(
    installation: Installation,
) -> None:
    n1, n2 = await cam(installation, seats=4, empty=2)
    held = await n2.check_out(consumer="other", quantity=2)
    async with talking(n2) as talk:
        id_, _ = await talk.wait_for(60, consumer="cam", quantity=2)
        await n1.check_out(consumer="cam")
        await queued(installation, 1, EMPTY)
        await n2.check_in(held.allocation.name)
        assert refusal(await talk.answer(id_)).reason == "POOL_MISMATCH"
    assert await counts(installation) == (4, 1, 0, 3)
    assert await counts(installation, EMPTY) == (2, 0, 0, 2)


async def test_a_request_repeated_in_another_domain_takes_nothing_over(installation: Installation) -> None:
    """Each domain of a node draws from its own pool; a request is one domain's."""
    await installation.studio(seats=1)
    await installation.new_pool("empty", moves={"SO-1": 1})
    node = await installation.node("n1")
    await node.enrol(EMPTY, await installation.code("n1", EMPTY, domain="news", replace=True))
    await node.open()
    news = await twin(node)
    await news.open(domain="news")
    granted = await node.check_out(request_id="granted")
    await mismatch(news.check_out(request_id="granted"))
    async with talking(node) as talk, talking(news) as other:
        id_, _ = await talk.wait_for(60, request_id="waiting")
        _, told = await other.wait_for(60, request_id="waiting")
        assert refusal(told).reason == "POOL_MISMATCH"
        await node.check_in(granted.allocation.name)
        assert (await talk.answer(id_)).check_out.granted.allocation.name.startswith(BIG)
    assert await counts(installation, EMPTY) == (1, 0, 0, 1)


async def test_a_resting_seat_is_taken_up_in_the_grace_after_the_last_day_and_not_later(
    installation: Installation,
) -> None:
    await installation.estate()
    await installation.product()
    await installation.licence(2, order="dated", valid_until="2026-06-01")
    await installation.licence(1, order="lasting")
    await installation.new_pool(moves={"dated": 2, "lasting": 1}, minimum_allocation=90 * DAY)
    node, other = await installation.node("a"), await installation.node("b")
    granted = await node.check_out(consumer="ann", quantity=3)
    await node.check_in(granted.allocation.name)
    await installation.leap(4 * DAY)
    assert await reason_of(other.check_out()) == "NO_SEAT_AVAILABLE"
    again = await node.check_out(consumer="ann", quantity=3)
    assert (again.resumed, again.quantity) == (True, 3)
    await node.check_in(again.allocation.name)
    await installation.leap(27 * DAY - 0.000_001)
    await node.check_in((await node.check_out(consumer="ann", quantity=3)).allocation.name)
    await installation.leap(0.000_001)
    assert await reason_of(node.check_out(consumer="ann", quantity=2)) == "NO_SEAT_AVAILABLE"
    # Of what rests together, the seat that has no last day is taken up still.
    last = await node.check_out(consumer="ann")
    assert [(line.licence[-7:], line.quantity) for line in last.allocation.lines] == [("L000002", 1)]
    assert await counts(installation) == (3, 1, 2, 0)
