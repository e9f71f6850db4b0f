"""Seats that rest until the end of their minimum allocation time."""

import itertools
from typing import Any

from poolkeeper_server.domain import commands as c
from poolkeeper_server.domain.moment import SECOND
from poolkeeper_server.domain.records import Allocation, AllocationState, CheckInReason, LicensedBy
from tests.stateful.worlds import DomainWorld, Sent

NUMBERS = itertools.count()


def asked(**fields: Any) -> dict[str, Any]:
    return {"estate_id": "acme", "caller": "n", "request_id": f"r{next(NUMBERS)}", "digest": b""} | fields


def take(session: str, quantity: int, **fields: Any) -> c.CheckOut:
    fields = asked(session_id=session, product_id="encoder", consumer="ann", quantity=quantity) | fields
    return c.CheckOut(**fields)


def give(session: str, allocation: str) -> c.CheckIn:
    return c.CheckIn(**asked(session_id=session, allocation_id=allocation, reason=CheckInReason.ENDED))


def minimum(seconds: int) -> c.UpdatePool:
    settings = c.PoolSettings(minimum_allocation=seconds * SECOND)
    return c.UpdatePool(**asked(request_id="", pool_id="default", settings=settings, version=None))


def with_seats(count: int, seed: int = 0) -> DomainWorld:
    """A pool of so many seats, and three open sessions of one node; all records are loaded in the seed's order."""
    world = DomainWorld(seed)
    spans = c.PoolSettings(lease_duration=60 * SECOND, heartbeat_interval=2 * SECOND, margin=3 * SECOND)
    commands: list[c.Command] = [
        c.CreateEstate(**asked(title="", settings=spans, honey=())),
        c.CreateProduct(**asked(estate_id="", product_id="encoder", title="", units=())),
        c.AddLicence(
            **asked(products=("encoder",), count=count, licensed_by=LicensedBy.CONCURRENT_USER, order_number=""),
            valid_from=None,
            valid_before=None,
        ),
        c.IssueCode(
            **asked(pool_id="default", node_id="n", domain="", replace=False, lifetime=SECOND),
            code_id="c",
            digests=(b"d",),
        ),
        c.Enrol(source="", estate_id="acme", pool_id="default", digest=b"d", public_key=b"k", valid=True, secret=b"s"),
    ]
    for session in ("s0", "s1", "s2"):
        opened: dict[str, Any] = {"estate_id": "acme", "node_id": "n", "session_id": session, "domain": ""}
        commands.append(c.OpenSession(**opened, public_key=b"k", secret=b"s", next_secret=b"s"))
    world.commit([Sent(command) for command in commands])
    return world


def answer(world: DomainWorld, command: c.Command) -> Any:
    ((_, found),) = world.commit([Sent(command)]).decided
    return found


def resting(world: DomainWorld) -> list[tuple[int, int | None]]:
    """How many seats rest, and until when."""
    found = [record for record in world.records.values() if isinstance(record, Allocation)]
    return sorted((one.quantity, one.quarantine_until) for one in found if one.state is AllocationState.QUARANTINED)


def test_what_rests_after_two_sharers_fell_silent_does_not_rest_on_the_order_in_which_they_are_found() -> None:
    found = set()
    for seed in range(8):
        world = with_seats(3, seed)
        answer(world, minimum(1000))
        answer(world, take("s0", 3))
        answer(world, take("s1", 2))
        world.pass_by(100)
        answer(world, c.Expire(limit=10))
        found.add(tuple(resting(world)))
    assert len(found) == 1


def test_a_grant_that_nobody_acknowledged_goes_back_to_no_longer_a_rest_than_it_came_from() -> None:
    world = with_seats(5)
    begun = world.now().civil
    answer(world, minimum(20))
    short = answer(world, take("s0", 2, consumer=""))
    answer(world, minimum(40))
    long = answer(world, take("s0", 1, consumer=""))
    rest = answer(world, take("s1", 2, consumer="bob"))
    answer(world, give("s0", long.allocation.allocation_id))
    waiting = answer(world, take("s2", 2, consumer="", wait=50 * SECOND))
    assert isinstance(waiting, c.Waiting)
    answer(world, minimum(20))
    answer(world, give("s0", short.allocation.allocation_id))
    assert resting(world) == [(1, begun + 40 * SECOND)]
    assert rest.allocation.quantity == 2
    world.pass_by(11)
    answer(world, c.Expire(limit=10))
    assert resting(world) == [(1, begun + 40 * SECOND), (2, begun + 20 * SECOND)]


def test_a_waiter_takes_up_its_own_seats_as_soon_as_they_rest() -> None:
    world = with_seats(2)
    answer(world, minimum(1000))
    held = answer(world, take("s0", 2, consumer=""))
    assert isinstance(answer(world, take("s1", 2, consumer="", wait=50 * SECOND)), c.Waiting)
    happened = world.commit([Sent(give("s0", held.allocation.allocation_id))])
    ((_, served),) = happened.served
    assert isinstance(served, c.Granted)
    assert served.resumed
