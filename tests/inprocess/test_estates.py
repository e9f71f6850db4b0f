"""Estates, purchases and pools: what lies where, and what moves."""

from __future__ import annotations

import pytest

from poolkeeper.v1 import admin_pb2, licensing_pb2
from tests.inprocess.installation import Installation, Refused
from tests.inprocess.steps import counts, reason_of

ACME, DEFAULT, WEST = "estates/acme", "estates/acme/pools/default", "estates/acme/pools/west"
EAST = "estates/acme/pools/east"


async def pools(installation: Installation) -> dict[str, admin_pb2.Pool]:
    listed = await installation.admin.pools.ListPools(admin_pb2.ListPoolsRequest(parent=ACME))
    return {pool.name: pool for pool in listed.pools}


async def shop(installation: Installation) -> None:
    """An estate with two purchases of ten, one of them with an end."""
    await installation.estate()
    await installation.product()
    await installation.licence(10, order="SO-1", valid_until="2026-12-31")
    await installation.licence(10, order="SO-2")


async def move(installation: Installation, source: str, target: str, **lines: int) -> None:
    await installation.admin.pools.MoveSeats(
        admin_pb2.MoveSeatsRequest(
            source=source,
            target=target,
            moves=[admin_pb2.SeatMove(line=line.replace("_", "-"), count=count) for line, count in lines.items()],
        )
    )


def lines(pool: admin_pb2.Pool) -> dict[str, tuple[int, str]]:
    """Count and last day of each line of a pool, by order number."""
    return {line.order_number: (line.counts.total, line.valid_until) for line in pool.holdings}


@pytest.mark.behaviour("EV-1")
async def test_an_estate_is_born_with_one_default_pool(installation: Installation) -> None:
    await installation.estate()
    (pool,) = (await pools(installation)).values()
    assert (pool.name, pool.title, pool.state) == (DEFAULT, "Default Pool", admin_pb2.POOL_STATE_ACTIVE)
    assert pool.counts.total == 0


@pytest.mark.behaviour("EV-1")
async def test_the_default_pool_is_neither_made_nor_closed_by_hand(installation: Installation) -> None:
    await installation.estate()
    assert await reason_of(installation.new_pool("default")) == "ALREADY_EXISTS"
    closing = installation.admin.pools.ClosePool(admin_pb2.ClosePoolRequest(name=DEFAULT))
    assert await reason_of(closing) == "FAILED_PRECONDITION"
    assert len(await pools(installation)) == 1


@pytest.mark.behaviour("EV-2")
async def test_a_purchase_lies_in_the_default_pool_under_its_order_number(installation: Installation) -> None:
    await shop(installation)
    pool = await installation.pool(DEFAULT)
    assert pool.counts.total == pool.counts.available == 20
    assert lines(pool) == {"SO-1": (10, "2026-12-31"), "SO-2": (10, "")}
    licence = await installation.admin.licences.GetLicence(
        admin_pb2.GetLicenceRequest(name="estates/acme/licences/L000001")
    )
    assert (licence.order_number, licence.count) == ("SO-1", 10)
    assert [(holding.pool, holding.counts.total) for holding in licence.holdings] == [(DEFAULT, 10)]


@pytest.mark.behaviour("EV-3")
async def test_a_pool_has_the_name_that_its_admin_chose(installation: Installation) -> None:
    await installation.estate()
    made = await installation.new_pool("west-2", title="Studio West & Söhne")
    assert (made.name, made.title) == ("estates/acme/pools/west-2", "Studio West & Söhne")
    assert (await pools(installation))[made.name].title == "Studio West & Söhne"
    assert await reason_of(installation.new_pool("west-2")) == "ALREADY_EXISTS"


@pytest.mark.behaviour("EV-4")
async def test_a_new_pool_takes_its_seats_from_the_default_pool_line_by_line(installation: Installation) -> None:
    await shop(installation)
    await installation.new_pool(moves={"SO-1": 3, "SO-2": 4})
    found = await pools(installation)
    assert lines(found[WEST]) == {"SO-1": (3, "2026-12-31"), "SO-2": (4, "")}
    assert lines(found[DEFAULT]) == {"SO-1": (7, "2026-12-31"), "SO-2": (6, "")}
    assert sum(pool.counts.total for pool in found.values()) == 20


@pytest.mark.behaviour("EV-4")
async def test_seats_move_between_any_two_pools_and_the_total_stays(installation: Installation) -> None:
    await shop(installation)
    await installation.new_pool(moves={"SO-1": 3})
    await installation.new_pool("east")
    await move(installation, WEST, EAST, SO_1=2)
    await move(installation, EAST, DEFAULT, SO_1=1)
    found = await pools(installation)
    assert {name: pool.counts.total for name, pool in found.items()} == {DEFAULT: 18, EAST: 1, WEST: 1}
    assert lines(found[EAST]) == {"SO-1": (1, "2026-12-31")}


@pytest.mark.behaviour("EV-5")
@pytest.mark.parametrize("moves", [{"SO-1": 11}, {"SO-2": 1, "SO-1": 11}], ids=["alone", "beside one that fits"])
async def test_a_pool_that_would_take_more_than_there_is_is_not_made(
    installation: Installation, moves: dict[str, int]
) -> None:
    await shop(installation)
    with pytest.raises(Refused) as refused:
        await installation.new_pool(moves=moves)
    assert refused.value.reason == "NO_SEAT_AVAILABLE"
    assert {name: pool.counts.total for name, pool in (await pools(installation)).items()} == {DEFAULT: 20}


@pytest.mark.behaviour("EV-5")
async def test_seats_in_use_or_in_quarantine_are_not_moved(installation: Installation) -> None:
    await installation.studio(seats=4, minimum_allocation=3_600)
    node = await installation.node()
    await node.check_out()
    given = await node.check_out()
    await node.check_in(given.allocation.name)
    assert await counts(installation) == (4, 1, 1, 2)
    assert await reason_of(move(installation, WEST, DEFAULT, SO_1=3)) == "NO_SEAT_AVAILABLE"
    assert await counts(installation) == (4, 1, 1, 2)
    await move(installation, WEST, DEFAULT, SO_1=2)
    assert await counts(installation) == (2, 1, 1, 0)


@pytest.mark.behaviour("EV-5")
async def test_one_line_that_does_not_fit_stops_the_whole_move(installation: Installation) -> None:
    await shop(installation)
    await installation.new_pool(moves={"SO-1": 3, "SO-2": 3})
    assert await reason_of(move(installation, WEST, DEFAULT, SO_1=3, SO_2=4)) == "NO_SEAT_AVAILABLE"
    assert lines((await pools(installation))[WEST]) == {"SO-1": (3, "2026-12-31"), "SO-2": (3, "")}


@pytest.mark.behaviour("EV-5")
async def test_the_same_line_twice_counts_together(installation: Installation) -> None:
    await shop(installation)
    await installation.new_pool()
    twice = [admin_pb2.SeatMove(line="SO-1", count=6), admin_pb2.SeatMove(line="L000001", count=6)]
    request = admin_pb2.MoveSeatsRequest(source=DEFAULT, target=WEST, moves=twice)
    assert await reason_of(installation.admin.pools.MoveSeats(request)) == "NO_SEAT_AVAILABLE"
    assert (await installation.pool()).counts.total == 0


@pytest.mark.behaviour("EV-6")
async def test_the_list_of_pools_shows_total_and_use_right_after_a_move(installation: Installation) -> None:
    await installation.studio(seats=4)
    await (await installation.node()).check_out(quantity=2)
    await move(installation, WEST, DEFAULT, SO_1=1)
    found = await pools(installation)
    west, default = found[WEST].counts, found[DEFAULT].counts
    assert (west.total, west.allocated_automatically, west.available) == (3, 2, 1)
    assert (default.total, default.allocated_automatically, default.available) == (7, 0, 7)


@pytest.mark.behaviour("EV-16")
async def test_an_empty_pool_refuses_though_others_have_seats(installation: Installation) -> None:
    await installation.studio(seats=1)
    node = await installation.node()
    await node.check_out()
    with pytest.raises(Refused) as refused:
        await node.check_out()
    assert refused.value.reason == "NO_SEAT_AVAILABLE"
    assert refused.value.denial.pool == WEST
    assert (await installation.pool(DEFAULT)).counts.available == 9


@pytest.mark.behaviour("EV-16")
async def test_a_pool_without_the_licence_refuses_though_others_have_it(installation: Installation) -> None:
    await installation.studio(seats=0)
    assert await reason_of((await installation.node()).check_out()) == "PRODUCT_NOT_GRANTED"


@pytest.mark.behaviour("EV-17")
async def test_fewer_cameras_give_the_spare_seats_back_to_their_pool(installation: Installation) -> None:
    await installation.estate()
    await installation.product(cameras=1, outputs=1)
    await installation.licence(10)
    await installation.new_pool(moves={"SO-1": 4})
    node = await installation.node()

    async def attach(cameras: int) -> licensing_pb2.Granted:
        demand = licensing_pb2.Demand(units={"cameras": cameras, "outputs": 1})
        return await node.check_out(consumer="encoder-1", demand=demand)

    first = await attach(4)
    assert await counts(installation) == (4, 4, 0, 0)
    second = await attach(2)
    assert (second.allocation.name, second.allocation.quantity) == (first.allocation.name, 2)
    assert await counts(installation) == (4, 2, 0, 2)
    assert await counts(installation, DEFAULT) == (6, 0, 0, 6)


@pytest.mark.behaviour("EV-17")
async def test_spare_seats_go_back_to_the_line_that_they_came_from(installation: Installation) -> None:
    await installation.estate()
    await installation.product(cameras=1)
    for order in ("SO-1", "SO-2"):
        await installation.licence(2, order=order)
    await installation.new_pool(moves={"SO-1": 2, "SO-2": 2})
    node = await installation.node()
    for cameras in (4, 1):
        await node.check_out(consumer="encoder-1", demand=licensing_pb2.Demand(units={"cameras": cameras}))
    found = {line.order_number: line.counts.available for line in (await installation.pool()).holdings}
    assert found == {"SO-1": 1, "SO-2": 2}
