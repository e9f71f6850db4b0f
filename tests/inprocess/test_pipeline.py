"""Which line a seat is taken from, and on which days."""

from __future__ import annotations

from typing import Any

import pytest

from poolkeeper.v1 import licensing_pb2
from tests.inprocess.installation import Installation, NodeClient
from tests.inprocess.steps import DAY, counts, reason_of

LEASED = licensing_pb2.ALLOCATION_KIND_LEASED
INSTALLED = licensing_pb2.ALLOCATION_KIND_INSTALLED


async def begin(installation: Installation) -> None:
    await installation.estate()
    await installation.product()


async def taken(node: NodeClient, **fields: Any) -> str:
    (line,) = (await node.check_out(**fields)).allocation.lines
    return str(line.licence[-7:])


async def test_the_line_that_expires_first_gives_first(installation: Installation) -> None:
    await begin(installation)
    for order, until in (("none", ""), ("late", "2027-12-31"), ("soon", "2026-12-31")):
        await installation.licence(1, order=order, valid_until=until)
    await installation.new_pool(moves={"none": 1, "late": 1, "soon": 1})
    node = await installation.node()
    assert [await taken(node) for _ in range(3)] == ["L000003", "L000002", "L000001"]


async def test_of_lines_that_expire_together_the_oldest_gives_first(installation: Installation) -> None:
    await begin(installation)
    for order in ("older", "newer"):
        await installation.licence(1, order=order, valid_until="2026-12-31")
        await installation.pass_by(1)
    await installation.new_pool(moves={"newer": 1, "older": 1})
    node = await installation.node()
    assert [await taken(node) for _ in range(2)] == ["L000001", "L000002"]


async def test_of_lines_bought_at_the_same_instant_the_lower_id_gives_first(installation: Installation) -> None:
    await begin(installation)
    for number in range(3):
        await installation.licence(1, order=f"SO-{number}")
    await installation.new_pool(moves={"SO-2": 1, "SO-0": 1, "SO-1": 1})
    node = await installation.node()
    assert [await taken(node) for _ in range(3)] == ["L000001", "L000002", "L000003"]


async def test_what_is_given_back_of_several_lines_comes_off_the_last_ones(installation: Installation) -> None:
    await begin(installation)
    await installation.licence(2, order="soon", valid_until="2026-12-31")
    await installation.licence(2, order="late", valid_until="2027-12-31")
    await installation.new_pool(moves={"soon": 2, "late": 2})
    node = await installation.node()
    await node.check_out(consumer="ann", quantity=4)
    less = await node.check_out(consumer="ann", quantity=1)
    assert [(line.licence[-7:], line.quantity) for line in less.allocation.lines] == [("L000001", 1)]


async def test_a_licence_is_valid_from_the_first_instant_of_its_first_day(installation: Installation) -> None:
    await begin(installation)
    await installation.licence(1, valid_from="2026-06-02")
    await installation.new_pool(moves={"SO-1": 1})
    node = await installation.node()
    await installation.leap(DAY - 0.000_001)
    assert await reason_of(node.check_out()) == "LICENCE_EXPIRED"
    await installation.leap(0.000_001)
    assert (await node.check_out()).quantity == 1


async def test_a_licence_is_valid_to_the_last_instant_of_its_last_day(installation: Installation) -> None:
    await begin(installation)
    await installation.licence(2, valid_until="2026-06-01")
    await installation.new_pool(moves={"SO-1": 2})
    node = await installation.node()
    await installation.leap(DAY - 0.000_001)
    assert (await node.check_out()).quantity == 1
    await installation.leap(0.000_001)
    assert await reason_of(node.check_out()) == "LICENCE_EXPIRED"


async def test_dates_are_shown_as_they_were_given(installation: Installation) -> None:
    await begin(installation)
    found = await installation.licence(1, valid_from="2026-06-02", valid_until="2028-02-29")
    assert (found.valid_from, found.valid_until) == ("2026-06-02", "2028-02-29")


async def test_a_holder_is_renewed_after_the_licence_s_last_day(installation: Installation) -> None:
    await begin(installation)
    await installation.licence(1, valid_until="2026-06-01")
    await installation.new_pool(moves={"SO-1": 1})
    node = await installation.node()
    granted = await node.check_out()
    await installation.leap(DAY)
    assert (await node.heartbeat(granted)).remaining.ToMicroseconds() == 120_000_000


async def test_leased_and_installed_lines_of_a_pool_each_give_their_own_kind(installation: Installation) -> None:
    await begin(installation)
    await installation.licence(1, order="leased", valid_until="2026-12-31")
    await installation.licence(1, order="installed", licensed_by="INSTALLED_INSTANCE")
    await installation.new_pool(moves={"leased": 1, "installed": 1})
    node, other = await installation.node("a"), await installation.node("b")
    first, second = await node.check_out(), await other.check_out()
    assert (first.allocation.kind, second.allocation.kind) == (LEASED, INSTALLED)
    assert (first.HasField("expire_time"), second.HasField("expire_time")) == (True, False)
    await node.close()
    await other.close()
    assert await counts(installation) == (2, 1, 0, 1)


async def test_one_need_is_not_covered_from_a_leased_and_an_installed_line(installation: Installation) -> None:
    await begin(installation)
    await installation.licence(1, order="leased")
    await installation.licence(1, order="installed", licensed_by="INSTALLED_INSTANCE")
    await installation.new_pool(moves={"leased": 1, "installed": 1})
    node = await installation.node()
    assert await reason_of(node.check_out(quantity=2)) == "NO_SEAT_AVAILABLE"
    assert await counts(installation) == (2, 0, 0, 2)


@pytest.mark.behaviour("CC-22")
async def test_a_resting_seat_of_its_own_goes_before_a_free_one(installation: Installation) -> None:
    await installation.studio(seats=2, minimum_allocation=60)
    node = await installation.node()
    first = await node.check_out(consumer="ann")
    await node.check_in(first.allocation.name)
    assert (await node.check_out(consumer="ann")).allocation.name == first.allocation.name
    assert await counts(installation) == (2, 1, 0, 1)
