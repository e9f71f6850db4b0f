"""What deciding costs, in calls of functions: a denial no more than a grant, and neither more in a large batch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import FrameType

import pytest

from poolkeeper_server.domain import records as r
from poolkeeper_server.domain.commands import Answer, CheckOut, Command, Granted
from poolkeeper_server.domain.decide import decide_all
from poolkeeper_server.domain.moment import SECOND, Moment
from poolkeeper_server.domain.refusal import Refusal
from poolkeeper_server.domain.state import State
from poolkeeper_server.services.ids import new_ids
from tests.records import HOLDING, LICENCE, POOL, PRODUCT, SESSION

NOW = Moment(lease=1_000 * SECOND, civil=1_780_272_000 * SECOND, epoch=1, frozen=False)
LARGEST = 1024


def stock(seats: int, *, rested: int = 0) -> State:
    """A pool with so many seats, some of which are in a quarantine that is over."""
    state = State()
    holding = r.replace(HOLDING, count=seats, quarantined=rested)
    state.load([PRODUCT, r.replace(LICENCE, count=max(1, seats)), POOL, holding, SESSION])
    for number in range(rested):
        state.load([quarantined(number)])
    return state


def quarantined(number: int) -> r.Allocation:
    """One of those."""
    return r.Allocation(
        estate_id="acme",
        allocation_id=f"q{number}",
        pool_id="west",
        product_id="encoder",
        licensed_by=r.LicensedBy.CONCURRENT_USER,
        kind=r.Kind.LEASED,
        state=r.AllocationState.QUARANTINED,
        counting_key=f"single\x1fother-{number}",
        shared=False,
        lines=(("L000001", 1),),
        quantity=1,
        node_id="other",
        consumer="",
        pseudonym="",
        installation="",
        user="",
        host="",
        allocated_at=0,
        seen_lease=0,
        fence=1,
        deadline_lease=None,
        quarantine_until=NOW.civil,
        release_without_quarantine=False,
        ended_at=None,
        end_reason="",
    )


def check_outs(count: int, *, quantity: int = 1) -> list[Command]:
    """So many, of one session."""
    return [
        CheckOut(
            estate_id="acme",
            caller="studio-7",
            request_id=f"{quantity}-{number}",
            digest=b"",
            session_id="s1",
            product_id="encoder",
            quantity=quantity,
        )
        for number in range(count)
    ]


def counted(work: Callable[[], Sequence[Answer]]) -> tuple[Sequence[Answer], int]:
    """What it gives, and how many functions of Python were called."""
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        del frame, argument
        nonlocal calls
        calls += event == "call"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        answers = work()
    finally:
        sys.setprofile(before)
    return answers, calls


def decided(state: State, batch: Sequence[Command], kind: type) -> float:
    """Calls for each command of a batch, all of which are answered alike."""
    ids = new_ids()
    answers, calls = counted(lambda: decide_all(state, batch, NOW, ids)[0])
    assert {type(answer) for answer in answers} == {kind}
    return calls / len(batch)


@pytest.mark.invariant("COST")
@pytest.mark.parametrize("size", [16, 64, LARGEST])
def test_a_denial_costs_no_more_than_a_grant_at_any_size_of_the_batch(size: int) -> None:
    granted = decided(stock(size), check_outs(size), Granted)
    state = stock(size)
    decided(state, check_outs(size), Granted)
    # All that was granted is there still, as where a batch is granted in part.
    assert decided(state, check_outs(size, quantity=2), Refusal) <= granted


@pytest.mark.invariant("COST")
@pytest.mark.parametrize("size", [16, LARGEST])
def test_what_was_due_is_ended_once_for_all_that_are_denied(size: int) -> None:
    state = stock(size, rested=size)
    denied = decided(state, check_outs(size, quantity=size + 1), Refusal)
    assert state.get(r.Holding, "acme", "west", "L000001") == r.replace(HOLDING, count=size)
    granted = decided(stock(size), check_outs(size), Granted)
    # Each quarantine is ended twice, at most: for the first who is denied, and for good.
    assert denied <= 3 * granted
