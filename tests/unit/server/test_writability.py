"""When a daemon says that it cannot write, and when it takes that back."""

from __future__ import annotations

import pytest

from poolkeeper_server.services.writability import ENDLESS, STEADY, Writability


def failing(since: float, until: float) -> Writability:
    """A daemon whose commits, one a second, have failed for so long."""
    found = Writability()
    now = since
    while now <= until:
        found.failed(began=now, now=now + 0.01, why="disk is full")
        now += 1
    return found


@pytest.mark.invariant("3A-WRITE")
def test_one_failure_says_nothing_and_some_seconds_of_them_do() -> None:
    assert failing(100, 101).reason == ""
    assert failing(100, 100 + STEADY).reason == "disk is full"


@pytest.mark.invariant("3A-WRITE")
def test_a_single_attempt_that_takes_long_to_fail_tells_as_much() -> None:
    found = Writability()
    found.failed(began=100, now=105, why="timeout")
    assert found.reason == "timeout"


@pytest.mark.invariant("3A-WRITE")
def test_a_store_that_fails_now_and_then_is_writable() -> None:
    found = Writability()
    for now in range(100, 200):
        found.failed(began=now, now=now + 0.3, why="fault")
        found.committed(now=now + 0.6)
        assert found.look(now=now + 0.7) == ""
    assert not found.is_troubled


@pytest.mark.invariant("3A-WRITE")
def test_it_ends_by_itself_when_commits_have_succeeded_for_a_while_without_a_failure_between() -> None:
    found = failing(100, 110)
    found.committed(now=111)
    assert (found.recovers, found.reason) == (True, "disk is full")
    found.failed(began=111.5, now=112, why="again")
    assert (found.recovers, found.reason) == (False, "again")
    for now in (113, 114):
        found.committed(now=now)
        assert found.reason != ""
    found.committed(now=113 + STEADY)
    assert found.reason == ""
    assert not found.is_troubled
    # What was before does not count for the next time.
    found.failed(began=116, now=116, why="disk is full")
    assert found.reason == ""


@pytest.mark.invariant("3A-WRITE")
@pytest.mark.parametrize("is_over", [False, True])
def test_a_transaction_that_does_not_end_is_none(*, is_over: bool) -> None:
    found = Writability()
    found.under_way = 100
    assert found.look(now=99 + ENDLESS) == ""
    if is_over:
        found.under_way = None
    assert bool(found.look(now=100 + ENDLESS)) is not is_over
