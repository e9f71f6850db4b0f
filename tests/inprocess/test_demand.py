"""How many seats a demand needs, and that it is met whole or not at all."""

from __future__ import annotations

from typing import Any

import pytest

from tests.inprocess.installation import Installation
from tests.inprocess.steps import counts, reason_of, update

UNITS = {"cameras": 4, "outputs": 1}


async def studio(installation: Installation, *lines: int, **settings: Any) -> None:
    await installation.estate()
    await installation.product("encoder", **UNITS)
    for number, count in enumerate(lines):
        await installation.licence(count, order=f"SO-{number}")
    await installation.new_pool(moves={f"SO-{number}": count for number, count in enumerate(lines)}, **settings)


def demand(**units: int) -> dict[str, dict[str, int]]:
    return {"units": units}


@pytest.mark.behaviour("CC-19")
@pytest.mark.parametrize(
    ("asked", "seats"),
    [
        ({}, 1),
        ({"cameras": 1}, 1),
        ({"cameras": 4, "outputs": 1}, 1),
        ({"cameras": 5}, 2),
        ({"cameras": 8, "outputs": 2}, 2),
        ({"cameras": 1, "outputs": 3}, 3),
        ({"cameras": 13, "outputs": 3}, 4),
    ],
)
async def test_the_seats_are_the_most_that_any_unit_needs(
    installation: Installation, asked: dict[str, int], seats: int
) -> None:
    await studio(installation, 9)
    granted = await (await installation.node()).check_out(demand=demand(**asked))
    assert granted.quantity == seats
    assert dict(granted.allocation.demand) == asked
    assert await counts(installation) == (9, seats, 0, 9 - seats)


@pytest.mark.behaviour("CC-19")
async def test_a_unit_that_the_product_does_not_have_is_refused(installation: Installation) -> None:
    await studio(installation, 9)
    node = await installation.node()
    assert await reason_of(node.check_out(demand=demand(cores=1))) == "INVALID_FIELD"
    assert await counts(installation) == (9, 0, 0, 9)


@pytest.mark.behaviour("CC-19")
async def test_a_demand_of_none_of_a_unit_needs_one_seat(installation: Installation) -> None:
    await studio(installation, 9)
    granted = await (await installation.node()).check_out(demand=demand(cameras=1, outputs=0))
    assert granted.quantity == 1


@pytest.mark.behaviour("CC-19")
async def test_a_quantity_needs_no_units(installation: Installation) -> None:
    await studio(installation, 9)
    assert (await (await installation.node()).check_out(quantity=5)).quantity == 5


@pytest.mark.behaviour("CC-19")
@pytest.mark.parametrize("quantity", [0, -1, 1_000_001])
async def test_a_quantity_out_of_range_is_refused(installation: Installation, quantity: int) -> None:
    await studio(installation, 9)
    node = await installation.node()
    assert await reason_of(node.check_out(quantity=quantity)) == "INVALID_FIELD"


@pytest.mark.behaviour("CC-19")
async def test_a_demand_too_large_for_any_pool_is_refused_as_such(installation: Installation) -> None:
    await studio(installation, 9)
    node = await installation.node()
    assert await reason_of(node.check_out(demand=demand(outputs=1_000_001))) == "INVALID_FIELD"


@pytest.mark.behaviour("CC-19")
async def test_asking_with_a_greater_demand_grows_the_allocation(installation: Installation) -> None:
    await studio(installation, 9)
    node = await installation.node()
    first = await node.check_out(consumer="camera-1", demand=demand(cameras=4))
    grown = await node.check_out(consumer="camera-1", demand=demand(cameras=9))
    assert (grown.allocation.name, grown.quantity) == (first.allocation.name, 3)
    assert (await node.heartbeat(grown)).reconcile == 0
    assert await counts(installation) == (9, 3, 0, 6)


@pytest.mark.behaviour("CC-19")
async def test_asking_with_a_smaller_demand_gives_the_rest_back_at_once(installation: Installation) -> None:
    await studio(installation, 9, minimum_allocation=60)
    node = await installation.node()
    first = await node.check_out(consumer="camera-1", demand=demand(cameras=9))
    shrunk = await node.check_out(consumer="camera-1", demand=demand(cameras=4))
    assert (shrunk.allocation.name, shrunk.quantity) == (first.allocation.name, 1)
    assert (await node.heartbeat(shrunk)).reconcile == 0
    assert await counts(installation) == (9, 1, 0, 8)


@pytest.mark.behaviour("CC-19")
async def test_the_rest_is_quarantined_where_the_pool_lets_no_removed_unit_skip_it(installation: Installation) -> None:
    await studio(installation, 9, minimum_allocation=60)
    await update(installation, skip_quarantine=[])
    node = await installation.node()
    await node.check_out(consumer="camera-1", quantity=3)
    await node.check_out(consumer="camera-1", quantity=1)
    assert await counts(installation) == (9, 1, 2, 6)
    await installation.pass_by(60)
    assert await counts(installation) == (9, 1, 0, 8)


@pytest.mark.behaviour("CC-20")
async def test_a_need_that_cannot_be_covered_takes_nothing(installation: Installation) -> None:
    await studio(installation, 2, 1)
    node = await installation.node()
    assert await reason_of(node.check_out(quantity=4)) == "NO_SEAT_AVAILABLE"
    assert await counts(installation) == (3, 0, 0, 3)
    assert await node.allocations() == []


@pytest.mark.behaviour("CC-20")
async def test_a_need_is_covered_from_several_lines(installation: Installation) -> None:
    await studio(installation, 2, 1, 3)
    granted = await (await installation.node()).check_out(quantity=4)
    lines = [(line.licence[-7:], line.quantity) for line in granted.allocation.lines]
    assert lines == [("L000001", 2), ("L000002", 1), ("L000003", 1)]


@pytest.mark.behaviour("CC-20")
async def test_what_came_from_several_lines_goes_back_to_them(installation: Installation) -> None:
    await studio(installation, 2, 1, 3)
    node = await installation.node()
    granted = await node.check_out(quantity=4)
    await node.check_in(granted.allocation.name)
    assert [line.counts.available for line in (await installation.pool()).holdings] == [2, 1, 3]


@pytest.mark.behaviour("CC-20")
async def test_a_growth_that_cannot_be_covered_changes_nothing(installation: Installation) -> None:
    await studio(installation, 3)
    node, other = await installation.node("a"), await installation.node("b")
    first = await node.check_out(consumer="camera-1", quantity=1)
    await other.check_out()
    assert await reason_of(node.check_out(consumer="camera-1", quantity=3)) == "NO_SEAT_AVAILABLE"
    assert (await node.heartbeat(first)).reconcile == 0
    assert await counts(installation) == (3, 2, 0, 1)


@pytest.mark.behaviour("CC-20")
async def test_quarantined_seats_cover_no_need_of_another(installation: Installation) -> None:
    await studio(installation, 3, minimum_allocation=60)
    node, other = await installation.node("a"), await installation.node("b")
    await node.check_in((await node.check_out(quantity=2)).allocation.name)
    assert await reason_of(other.check_out(quantity=2)) == "NO_SEAT_AVAILABLE"
    assert (await other.check_out(quantity=1)).quantity == 1
