"""Whose turn it is: nobody starves behind another product, and nobody holds the line who can never be served."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import pytest

from poolkeeper.v1 import admin_pb2, licensing_pb2
from tests.inprocess.installation import SECOND, Installation, Refused
from tests.inprocess.steps import DAY, Talk, counts, move, queued, reason_of, refusal, talking

#: Whose turn it is, is the domain's business; what a store finds of it is tested over both in test_waiting.
pytestmark = pytest.mark.parametrize("store", ["sqlite"], indirect=True)


async def lines(installation: Installation, *counted: int, **fields: Any) -> None:
    """Pool west with lines of so many seats, each for both products; `fields` has the values of each."""
    await installation.estate()
    for product in ("aaa", "zzz"):
        await installation.product(product)
    for number, count in enumerate(counted):
        given = {name: values[number] for name, values in fields.items() if values[number]}
        licensed_by = given.pop("licensed_by", "CONCURRENT_USER")
        await installation.admin.licences.AddLicence(
            admin_pb2.AddLicenceRequest(
                parent="estates/acme",
                products=given.pop("products", ["aaa", "zzz"]),
                count=count,
                licensed_by=admin_pb2.LicensedBy.Value(f"LICENSED_BY_{licensed_by}"),
                order_number=f"SO-{number}",
                **given,
            )
        )
    await installation.new_pool(moves={f"SO-{number}": count for number, count in enumerate(counted)})


async def granted(talk: Talk, id_: int) -> licensing_pb2.Granted:
    """What a waiter was given."""
    found = (await talk.answer(id_)).check_out
    assert found.HasField("granted"), found
    return found.granted


@pytest.mark.behaviour("CC-44")
async def test_a_waiter_whom_a_move_leaves_without_hope_is_denied_at_once(installation: Installation) -> None:
    await installation.studio(seats=3)
    n1, n2, n3 = [await installation.node(name) for name in ("n1", "n2", "n3")]
    await n1.check_out()
    async with talking(n2) as talk, talking(n3) as behind:
        id_, _ = await talk.wait_for(60, quantity=3)
        behind_id, _ = await behind.wait_for(60)
        await move(installation, "west", "default", L000001=1)
        told = refusal(await talk.answer(id_))
        assert (told.reason, told.denial.needed, told.denial.counts.total) == ("NO_SEAT_AVAILABLE", 3, 2)
        assert "No waiting helps" in told.hint
        assert (await granted(behind, behind_id)).quantity == 1
    assert await counts(installation) == (2, 2, 0, 0)


@pytest.mark.behaviour("CC-44")
async def test_a_line_that_ends_takes_the_hope_of_a_waiter_at_the_next_tick(installation: Installation) -> None:
    await lines(installation, 2, 2, valid_until=[None, "2026-06-01"])
    node, other = await installation.node("a"), await installation.node("b")
    await node.check_out("aaa")
    async with talking(node) as talk, talking(other) as behind:
        id_, _ = await talk.wait_for(60, "aaa", quantity=4)
        behind_id, _ = await behind.wait_for(60, "zzz", quantity=2)
        await installation.leap(DAY - 1)
        await queued(installation, 2)
        await installation.leap(1)
        told = refusal(await talk.answer(id_))
        assert (told.reason, told.denial.counts.total) == ("NO_SEAT_AVAILABLE", 2)
        assert (await granted(behind, behind_id)).quantity == 2


@pytest.mark.behaviour("CC-44")
async def test_before_the_tick_too_a_line_that_has_ended_is_waited_for_no_more(installation: Installation) -> None:
    await lines(installation, 2, 2, valid_until=[None, "2026-06-01"])
    node, second, third = [await installation.node(name) for name in ("a", "b", "c")]
    await node.check_out("aaa", quantity=3)
    async with talking(node) as talk, talking(second) as behind:
        id_, _ = await talk.wait_for(60, "aaa", quantity=3)
        await behind.wait_for(60, "aaa", quantity=2, request_id="w")
        installation.time.pass_by(DAY)
        # The seat that is free is the second waiter's, who lacks another one.
        assert await reason_of(third.check_out("zzz")) == "NO_SEAT_AVAILABLE"
        assert refusal(await talk.answer(id_)).reason == "NO_SEAT_AVAILABLE"
        await behind.ask(cancel_wait=licensing_pb2.CancelWaitRequest(request_id="w"))
        assert (await third.check_out("zzz")).quantity == 1


@pytest.mark.behaviour("CC-44")
async def test_a_line_that_begins_serves_who_waits_for_it_at_the_next_tick(installation: Installation) -> None:
    await lines(installation, 1, 1, valid_from=[None, "2026-06-02"])
    node = await installation.node()
    async with talking(node) as talk:
        id_, _ = await talk.wait_for(60, "aaa", quantity=2)
        await installation.leap(DAY)
        assert (await granted(talk, id_)).quantity == 2


@pytest.mark.behaviour("CC-44")
async def test_a_clock_that_is_not_trusted_ends_nobody_s_waiting(installation: Installation) -> None:
    await lines(installation, 1, valid_until=["2026-12-31"])
    node = await installation.node()
    held = await node.check_out("aaa")
    async with talking(node) as talk:
        id_, _ = await talk.wait_for(60, "aaa")
        installation.time.civil_now -= 3600 * SECOND
        await node.check_in(held.allocation.name)
        assert await counts(installation) == (1, 0, 0, 1)
        await queued(installation, 1)
        installation.time.civil_now += 3600 * SECOND
        await installation.daemon.housekeeping.tick()
        await installation.daemon.housekeeping.tell()
        assert (await granted(talk, id_)).quantity == 1


@pytest.mark.behaviour("CC-44")
@pytest.mark.parametrize(("first", "later"), [("zzz", "aaa"), ("aaa", "zzz")])
async def test_products_of_one_line_are_served_in_the_order_in_which_they_were_asked_for(
    installation: Installation, first: str, later: str
) -> None:
    await lines(installation, 1)
    nodes = [await installation.node(f"n{number}") for number in range(5)]
    held = await nodes[0].check_out("aaa")
    async with AsyncExitStack() as stack:
        waiting = []
        for node, product in zip(nodes[1:], (first, later, later, first), strict=True):
            talk = await stack.enter_async_context(talking(node))
            waiting.append((talk, (await talk.wait_for(60, product))[0]))
        for holder, (talk, id_) in zip(nodes, waiting, strict=False):
            await holder.check_in(held.allocation.name)
            held = await granted(talk, id_)


@pytest.mark.behaviour("CC-44")
async def test_a_waiter_keeps_the_lines_that_could_serve_it_and_no_other(installation: Installation) -> None:
    await lines(installation, 2, 1, products=[["aaa", "zzz"], ["zzz"]])
    node, other = await installation.node("a"), await installation.node("b")
    held = await node.check_out("aaa")
    async with talking(node) as talk:
        id_, _ = await talk.wait_for(5, "aaa", quantity=2)
        (line,) = (await other.check_out("zzz")).allocation.lines
        assert line.licence.endswith("L000002")
        with pytest.raises(Refused) as refused:
            await other.check_out("zzz")
        assert "1 check-outs for seats that grant zzz wait already" in refused.value.message
        assert await counts(installation) == (3, 2, 0, 1)
        await node.check_in(held.allocation.name)
        assert (await granted(talk, id_)).quantity == 2


@pytest.mark.behaviour("CC-44")
async def test_the_deadline_of_one_product_s_waiter_lets_another_s_go_on(installation: Installation) -> None:
    await lines(installation, 2)
    node, other = await installation.node("a"), await installation.node("b")
    await node.check_out("zzz")
    async with talking(node) as talk, talking(other) as behind:
        id_, _ = await talk.wait_for(5, "zzz", quantity=2)
        behind_id, _ = await behind.wait_for(60, "aaa")
        await installation.pass_by(5)
        assert refusal(await talk.answer(id_)).reason == "WAIT_EXPIRED"
        assert (await granted(behind, behind_id)).quantity == 1


@pytest.mark.behaviour("CC-44")
async def test_seats_of_a_kind_that_is_too_few_are_not_kept_for_a_waiter(installation: Installation) -> None:
    await lines(installation, 2, 3, licensed_by=["CONCURRENT_USER", "INSTALLED_INSTANCE"])
    node, other, third = [await installation.node(name) for name in ("a", "b", "c")]
    await other.check_out("aaa", installation="i", quantity=3)
    taken = await other.check_out("aaa")
    async with talking(node) as talk, talking(third) as behind:
        # Five seats in all, but no kind of licence has four.
        _, told = await talk.wait_for(60, "aaa", quantity=4)
        assert refusal(told).reason == "NO_SEAT_AVAILABLE"
        await talk.wait_for(60, "aaa", quantity=3)
        id_, _ = await behind.wait_for(60, "aaa", quantity=2)
        assert await reason_of(other.check_out("zzz", consumer="new")) == "NO_SEAT_AVAILABLE"
        await other.check_in(taken.allocation.name)
        found = await granted(behind, id_)
        assert (found.quantity, found.allocation.kind) == (2, licensing_pb2.ALLOCATION_KIND_LEASED)
        await third.check_in(found.allocation.name)
        assert (await other.check_out("zzz", consumer="new")).quantity == 1


@pytest.mark.behaviour("CC-44")
async def test_what_a_consumer_holds_already_counts_for_what_it_waits_for(installation: Installation) -> None:
    await lines(installation, 1, 2, valid_until=[None, "2026-06-01"])
    node, other = await installation.node("a"), await installation.node("b")
    await node.check_out("aaa", consumer="ann", quantity=2)
    held = await other.check_out("aaa")
    async with talking(node) as talk:
        _, told = await talk.wait_for(60, "aaa", consumer="ann", quantity=4)
        assert refusal(told).reason == "NO_SEAT_AVAILABLE"
        id_, _ = await talk.wait_for(60, "aaa", consumer="ann", quantity=3)
        # Both of its seats are of a line that ends; it keeps them, and needs the third of the other one.
        await installation.leap(DAY)
        await queued(installation, 1)
        await other.check_in(held.allocation.name)
        assert (await granted(talk, id_)).allocation.quantity == 3


@pytest.mark.behaviour("CC-44")
async def test_those_of_whom_one_batch_looks_at_the_first_only_keep_their_turn(installation: Installation) -> None:
    await lines(installation, 41)
    await move(installation, "west", "default", L000001=40)
    node, other = await installation.node("a"), await installation.node("b")
    await node.check_out("aaa")
    async with talking(node) as talk, talking(other) as behind:
        waiting = [(await talk.wait_for(60, "aaa"))[0] for _ in range(38)]
        id_, _ = await behind.wait_for(60, "zzz")
        await move(installation, "default", "west", L000001=36)
        for number in waiting[:36]:
            await granted(talk, number)
        await queued(installation, 3)
        assert await reason_of(other.check_out("zzz")) == "NO_SEAT_AVAILABLE"
        await move(installation, "default", "west", L000001=3)
        for number in waiting[36:]:
            await granted(talk, number)
        await granted(behind, id_)
