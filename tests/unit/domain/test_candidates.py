import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolkeeper_server.domain.candidates import Candidate, candidates, choose
from poolkeeper_server.domain.moment import DAY, Moment
from poolkeeper_server.domain.records import Counting, Holding, Licence, LicensedBy, Pairs, Pool, PoolState
from poolkeeper_server.domain.refusal import Reason
from poolkeeper_server.domain.state import State

NOW = Moment(lease=0, civil=100 * DAY)
LEASED, INSTALLED = LicensedBy.CONCURRENT_USER, LicensedBy.INSTALLED_INSTANCE
POOL = Pool(
    estate_id="acme",
    pool_id="west",
    title="West",
    state=PoolState.ACTIVE,
    minimum_allocation=0,
    lease_duration=0,
    heartbeat_interval=0,
    margin=0,
    counting=Counting.CONSUMER,
    skip_quarantine=(),
    reclaim_after=None,
    created_at=0,
    version=1,
    ledger_sequence=1,
    ledger_hash=b"",
)


def licence(id_: str, *, start: int | None = None, before: int | None = None, bought: int = 0) -> Licence:
    return Licence(
        estate_id="acme",
        licence_id=id_,
        products=("encoder",),
        count=10,
        licensed_by=LEASED,
        order_number="",
        valid_from=None if start is None else start * DAY,
        valid_before=None if before is None else before * DAY,
        created_at=bought,
    )


def holding(id_: str, count: int = 10, active: int = 0, quarantined: int = 0) -> Holding:
    return Holding(
        estate_id="acme", pool_id="west", licence_id=id_, count=count, active=active, quarantined=quarantined
    )


def found(*licences: Licence, now: Moment = NOW, product: str = "encoder", count: int = 10) -> list[Candidate]:
    state = State()
    records: list[object] = [*licences, *(holding(one.licence_id, count) for one in licences)]
    random.Random(len(licences)).shuffle(records)
    state.load(records)
    return candidates(state, now, POOL, product)


@pytest.mark.parametrize(
    "ranked",
    [
        [licence("B", before=101), licence("A", before=102)],
        [licence("B", before=300), licence("A")],
        [licence("B", before=300, bought=9), licence("A", before=301, bought=1)],
        [licence("B", bought=1), licence("A", bought=2)],
        [licence("A"), licence("B"), licence("C")],
    ],
)
def test_earliest_expiry_then_oldest_purchase_then_id(ranked: list[Licence]) -> None:
    assert [line.licence for line in found(*ranked[::-1])] == ranked


@pytest.mark.parametrize(
    ("line", "now", "reason"),
    [
        (licence("A"), NOW, None),
        (licence("A", start=100), NOW, None),
        (licence("A", start=101), NOW, Reason.LICENCE_EXPIRED),
        (licence("A", start=101), replace(NOW, civil=101 * DAY - 1), Reason.LICENCE_EXPIRED),
        (licence("A", start=101), replace(NOW, civil=101 * DAY), None),
        (licence("A", before=101), replace(NOW, civil=101 * DAY - 1), None),
        (licence("A", before=101), replace(NOW, civil=101 * DAY), Reason.LICENCE_EXPIRED),
        (licence("A"), replace(NOW, frozen=True), None),
        (licence("A", before=200), replace(NOW, frozen=True), Reason.CLOCK_FROZEN),
        (licence("A", start=50), replace(NOW, frozen=True), Reason.CLOCK_FROZEN),
    ],
)
def test_dates_rule_a_line_out(line: Licence, now: Moment, reason: Reason | None) -> None:
    assert [candidate.rejected for candidate in found(line, now=now)] == [reason]


def test_a_line_of_another_product_or_without_seats_is_no_candidate() -> None:
    assert found(licence("A"), product="decoder") == []
    assert found(licence("A"), count=0) == []


def lines(*free: int, kinds: tuple[LicensedBy, ...] = ()) -> list[Candidate]:
    return [
        Candidate(
            licence=replace(licence(f"L{number}"), licensed_by=kinds[number] if kinds else LEASED),
            holding=holding(f"L{number}", count=seats),
            rejected=None,
        )
        for number, seats in enumerate(free)
    ]


@pytest.mark.parametrize(
    ("free", "need", "chosen"),
    [
        ((3,), 1, (("L0", 1),)),
        ((3,), 4, None),
        ((1, 2, 3), 4, (("L0", 1), ("L1", 2), ("L2", 1))),
        ((0, 2), 2, (("L1", 2),)),
        ((20, 12), 32, (("L0", 20), ("L1", 12))),
        ((20, 8), 32, None),
        ((), 1, None),
    ],
)
def test_the_best_lines_give_until_the_need_is_met_or_none_gives(
    free: tuple[int, ...], need: int, chosen: Pairs | None
) -> None:
    assert choose(lines(*free), LEASED, need) == chosen


def test_seats_of_another_kind_do_not_help() -> None:
    assert choose(lines(1, 5, kinds=(LEASED, INSTALLED)), LEASED, 2) is None
    assert choose(lines(1, 5, kinds=(LEASED, INSTALLED)), INSTALLED, 2) == (("L1", 2),)


def test_a_rejected_line_gives_nothing() -> None:
    (line,) = lines(5)
    assert choose([replace(line, rejected=Reason.LICENCE_EXPIRED)], LEASED, 1) is None


def test_a_line_that_is_over_its_count_gives_nothing_and_takes_nothing() -> None:
    over, other = lines(0, 2)
    over = replace(over, holding=holding("L0", count=1, active=3))
    assert choose([over, other], LEASED, 2) == (("L1", 2),)
    assert choose([over, other], LEASED, 3) is None


@given(st.lists(st.integers(0, 5), max_size=6), st.integers(1, 20))
def test_a_choice_is_exact_and_never_more_than_there_is(free: list[int], need: int) -> None:
    chosen = choose(lines(*free), LEASED, need)
    assert (chosen is None) == (sum(free) < need)
    if chosen is not None:
        assert sum(seats for _, seats in chosen) == need
        assert all(0 < seats <= free[int(line[1:])] for line, seats in chosen)
