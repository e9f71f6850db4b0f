"""What the embedded store keeps in memory: never more than it may, and nothing of which it is not sure."""

from __future__ import annotations

import pytest

from poolkeeper_server.domain import records as r
from poolkeeper_server.domain.state import State
from poolkeeper_server.storage.kept import MOST_LEARNT, Kept
from poolkeeper_server.storage.loading import GET, HOLDINGS, LICENCES, USES
from tests.records import HOLDING, LICENCE
from tests.unit.server.test_saving import ALLOCATION

WEST = ("acme", "west")


@pytest.fixture
def kept() -> Kept:
    """Something that knows the line of a pool."""
    state = State()
    state.load([HOLDING, LICENCE])
    state.whole_pools.add(WEST)
    found = Kept()
    found.learn(state)
    assert known(found) == [HOLDING]
    return found


def known(kept: Kept) -> object:
    """What is known of the lines of the pool, if anything."""
    answers = kept.answers(HOLDINGS)
    return None if answers is None else answers.get(WEST)


def test_what_changed_is_forgotten_where_the_batch_did_not_have_all_of_it(kept: Kept) -> None:
    state = State()
    state.load([HOLDING])
    state.put(r.replace(HOLDING, active=1))
    kept.learn(state)
    assert known(kept) is None


def test_a_licence_that_changed_is_forgotten_in_all_pools(kept: Kept) -> None:
    state = State()
    state.load([LICENCE])
    state.put(r.replace(LICENCE, count=101))
    kept.learn(state)
    assert kept.answers(LICENCES) == {}


def test_an_allocation_that_a_refusal_took_back_was_never_there() -> None:
    state, kept = State(), Kept()
    mark = state.mark()
    state.put(ALLOCATION)
    state.rollback(mark)
    kept.learn(state)
    assert kept.answers(USES) == {}


def test_a_line_that_came_is_forgotten_with_its_licences_where_the_batch_did_not_have_all_of_them(kept: Kept) -> None:
    state = State()
    state.put(r.replace(HOLDING, licence_id="L000002"))
    kept.learn(state)
    assert kept.answers(HOLDINGS) == kept.answers(LICENCES) == {}


def test_a_batch_of_more_than_it_may_take_leaves_nothing(kept: Kept) -> None:
    state = State()
    state.load(
        r.Product(product_id=f"p{number}", title="", units=(), created_at=0) for number in range(MOST_LEARNT + 1)
    )
    kept.learn(state)
    assert known(kept) is None
    assert kept.answers(GET[r.Product]) == {}


def test_it_begins_anew_before_it_takes_more_than_it_may(kept: Kept) -> None:
    state = State()
    state.load(r.Product(product_id=f"p{number}", title="", units=(), created_at=0) for number in range(MOST_LEARNT))
    kept.learn(state)
    assert known(kept) is None
    assert len(kept.answers(GET[r.Product]) or ()) == MOST_LEARNT
