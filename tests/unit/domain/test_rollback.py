"""A command that was refused has left nothing behind."""

import pytest

from poolkeeper_server.domain.records import Session
from poolkeeper_server.domain.state import State
from tests.records import POOL, SESSION


@pytest.mark.invariant("INV-4")
def test_a_state_that_is_rolled_back_is_what_it_was_and_tells_nobody_anything() -> None:
    state = State()
    state.load([SESSION])
    state.freed[("acme", "east")] = None
    state.told[("acme", "s0")] = ("before",)
    before = (dict(state.freed), dict(state.told))
    mark = state.mark()
    state.remove(SESSION)
    state.put(POOL)
    state.drafts.append((("acme", "west"), 1, {}))
    state.served.append((object(), object()))  # type: ignore[arg-type] # what is served is only passed on
    state.freed[("acme", "west")] = None
    state.told[("acme", "s1")] = ("news",)
    state.rollback(mark)
    assert (state.freed, state.told) == before
    assert (state.drafts, state.served) == ([], [])
    assert list(state.all(Session)) == [SESSION]
    assert state.changes() == ({}, {})
