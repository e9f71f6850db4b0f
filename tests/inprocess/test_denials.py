"""Denials that a program can act on: why, how the pool stands, when a seat is expected, what each line lacks."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from poolkeeper.v1 import admin_pb2, errors_pb2
from tests.inprocess.installation import BEGINNING, Installation, NodeClient, Refused
from tests.inprocess.steps import WEST, move, queued, reason_of


async def denied(node: NodeClient, **fields: Any) -> Refused:
    with pytest.raises(Refused) as refused:
        await node.check_out(**fields)
    return refused.value


@pytest.mark.behaviour("CC-17")
async def test_a_denial_names_reason_pool_product_and_need(installation: Installation) -> None:
    await installation.studio(seats=2)
    refused = await denied(await installation.node(), quantity=3)
    denial = refused.denial
    assert refused.reason == "NO_SEAT_AVAILABLE"
    assert denial.reason == errors_pb2.REASON_NO_SEAT_AVAILABLE
    assert (denial.pool, denial.product, denial.needed, denial.place) == (WEST, "products/encoder", 3, 0)


@pytest.mark.behaviour("CC-17")
async def test_a_denial_counts_the_seats_and_those_in_quarantine(installation: Installation) -> None:
    await installation.studio(seats=5, minimum_allocation=30)
    node, other = await installation.node("a"), await installation.node("b")
    granted = await node.check_out(quantity=2)
    await node.check_out()
    await node.check_in(granted.allocation.name)
    counts = (await denied(other, quantity=3)).denial.counts
    assert (counts.total, counts.allocated_automatically, counts.quarantined, counts.available) == (5, 1, 2, 2)


@pytest.mark.behaviour("CC-17")
async def test_a_denial_tells_when_the_next_seat_leaves_quarantine(installation: Installation) -> None:
    await installation.studio(seats=2, minimum_allocation=30)
    node, other = await installation.node("a"), await installation.node("b")
    first, second = await node.check_out(), await node.check_out()
    await node.check_in(second.allocation.name)
    await installation.pass_by(5)
    await node.check_in(first.allocation.name)
    assert (await denied(other)).denial.next_free_time.ToMicroseconds() == BEGINNING + 30_000_000


@pytest.mark.behaviour("CC-17")
async def test_a_denial_tells_no_time_when_nothing_tells(installation: Installation) -> None:
    await installation.studio(seats=1)
    node = await installation.node()
    await node.check_out()
    assert not (await denied(node)).denial.HasField("next_free_time")


@pytest.mark.behaviour("CC-17")
async def test_a_denial_expects_seats_that_another_product_of_the_line_left_in_quarantine(
    installation: Installation,
) -> None:
    await installation.estate()
    await installation.product("encoder")
    await installation.product("decoder")
    await installation.admin.licences.AddLicence(
        admin_pb2.AddLicenceRequest(
            parent="estates/acme",
            order_number="SO-1",
            count=1,
            products=["encoder", "decoder"],
            licensed_by=admin_pb2.LICENSED_BY_CONCURRENT_USER,
        )
    )
    await installation.new_pool(moves={"SO-1": 1}, minimum_allocation=30)
    node, other = await installation.node("a"), await installation.node("b")
    await node.check_in((await node.check_out("decoder")).allocation.name)
    denial = (await denied(other)).denial
    assert denial.counts.quarantined == 1
    assert denial.next_free_time.ToMicroseconds() == BEGINNING + 30_000_000


@pytest.mark.behaviour("CC-17")
async def test_a_denial_has_a_reason_for_each_line(installation: Installation) -> None:
    await installation.estate()
    await installation.product()
    await installation.licence(1, order="over", valid_until="2026-05-31")
    await installation.licence(2, order="early", valid_from="2026-06-02")
    await installation.licence(3, order="used")
    await installation.new_pool(moves={"over": 1, "early": 2, "used": 3})
    node = await installation.node()
    await node.check_out(quantity=2)
    denial = (await denied(node, quantity=2)).denial
    told = [(one.licence[-7:], one.reason, one.count, one.active) for one in denial.candidates]
    assert told == [
        ("L000001", errors_pb2.REASON_LICENCE_EXPIRED, 1, 0),
        ("L000002", errors_pb2.REASON_LICENCE_EXPIRED, 2, 0),
        ("L000003", errors_pb2.REASON_NO_SEAT_AVAILABLE, 3, 2),
    ]
    assert {one.pool for one in denial.candidates} == {WEST}
    assert all(one.detail for one in denial.candidates)
    assert dict(denial.rejections) == {"LICENCE_EXPIRED": 2, "NO_SEAT_AVAILABLE": 1}


@pytest.mark.behaviour("CC-17")
async def test_a_denial_for_dates_alone_says_so(installation: Installation) -> None:
    await installation.estate()
    await installation.product()
    await installation.licence(1, order="over", valid_until="2026-05-31")
    await installation.new_pool(moves={"over": 1})
    assert (await denied(await installation.node())).reason == "LICENCE_EXPIRED"


@pytest.mark.behaviour("CC-17")
async def test_a_denial_names_a_clock_that_is_not_to_be_trusted(installation: Installation) -> None:
    await installation.estate()
    await installation.product()
    await installation.licence(1, order="dated", valid_until="2027-05-31")
    await installation.licence(1, order="timeless")
    await installation.new_pool(moves={"dated": 1, "timeless": 1})
    node = await installation.node()
    installation.time.civil_now -= 3_600_000_000
    await installation.daemon.housekeeping.tick()
    held = await node.check_out()
    assert [line.licence[-7:] for line in held.allocation.lines] == ["L000002"]
    denial = (await denied(node)).denial
    assert [one.reason for one in denial.candidates] == [
        errors_pb2.REASON_CLOCK_FROZEN,
        errors_pb2.REASON_NO_SEAT_AVAILABLE,
    ]


@pytest.mark.behaviour("CC-17")
async def test_a_denial_for_the_clock_alone_says_so(installation: Installation) -> None:
    await installation.estate()
    await installation.product()
    await installation.licence(1, order="dated", valid_until="2027-05-31")
    await installation.new_pool(moves={"dated": 1})
    node = await installation.node()
    installation.time.civil_now -= 3_600_000_000
    await installation.daemon.housekeeping.tick()
    assert (await denied(node)).reason == "CLOCK_FROZEN"


@pytest.mark.behaviour("CC-17")
async def test_a_denial_shows_at_most_twenty_lines_and_counts_all(installation: Installation) -> None:
    await installation.estate()
    await installation.product()
    for number in range(25):
        await installation.licence(1, order=f"SO-{number}")
    await installation.new_pool(moves={f"SO-{number}": 1 for number in range(25)})
    node = await installation.node()
    denial = (await denied(node, quantity=26)).denial
    assert 10 <= len(denial.candidates) <= 20
    assert [one.licence[-2:] for one in denial.candidates[:3]] == ["01", "02", "03"]
    assert dict(denial.rejections) == {"NO_SEAT_AVAILABLE": 25}


@pytest.mark.behaviour("CC-17")
async def test_a_product_that_no_line_grants_is_told_from_one_that_is_used_up(installation: Installation) -> None:
    await installation.studio()
    await installation.product("decoder")
    assert await reason_of((await installation.node()).check_out("decoder")) == "PRODUCT_NOT_GRANTED"


@pytest.mark.behaviour("CC-17")
async def test_a_denial_after_waiting_explains_as_much_as_one_without(installation: Installation) -> None:
    await installation.estate()
    await installation.product("encoder", cameras=4)
    await installation.licence(2)
    await installation.new_pool(moves={"SO-1": 2}, minimum_allocation=60)
    node, other = await installation.node("a"), await installation.node("b")
    await node.check_out()
    await node.check_in((await node.check_out()).allocation.name)
    waiting = asyncio.create_task(denied(other, wait={"seconds": 5}, demand={"units": {"cameras": 8}}))
    await queued(installation, 1)
    await installation.pass_by(5)
    denial = (await waiting).denial
    assert (denial.reason, denial.needed, denial.place) == (errors_pb2.REASON_WAIT_EXPIRED, 2, 1)
    assert (denial.counts.total, denial.counts.allocated_automatically, denial.counts.quarantined) == (2, 1, 1)
    assert denial.next_free_time.ToMicroseconds() == BEGINNING + 60_000_000
    assert [one.reason for one in denial.candidates] == [errors_pb2.REASON_NO_SEAT_AVAILABLE]


@pytest.mark.behaviour("CC-17")
async def test_seats_outside_their_dates_are_not_said_to_be_available(installation: Installation) -> None:
    await installation.estate()
    await installation.product()
    await installation.licence(5, order="over", valid_until="2026-05-31")
    await installation.licence(1, order="used")
    await installation.new_pool(moves={"over": 5, "used": 1})
    node = await installation.node()
    await node.check_out()
    refused = await denied(node)
    assert "5 of 6" not in refused.message


async def test_a_move_into_the_pool_ends_the_denial(installation: Installation) -> None:
    await installation.studio(seats=1)
    node = await installation.node()
    await node.check_out()
    await denied(node)
    await move(installation, "default", "west", L000001=1)
    assert (await node.check_out()).quantity == 1
