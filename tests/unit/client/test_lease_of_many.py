"""The lease keeper against one that looks at everything each time, and what it costs to hold much."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from poolkeeper._core.digest import Digest
from poolkeeper._core.lease import Change, HoldState, LeaseKeeper
from poolkeeper.errors import LeaseExpired, LeaseLost, NodeRevoked, PoolClosed, Revoked
from tests.unit.client.effort import effort
from tests.unit.client.naive_keeper import NaiveKeeper

NAMES = st.sampled_from(["a", "b", "c", "d"])
#: Quarters of a second: exact in binary, and often the same.
SPANS = st.integers(0, 60).map(lambda quarters: quarters / 4)


class Keepers(RuleBasedStateMachine):
    """Whatever happens, in whatever order, both say the same."""

    @initialize(
        lease=st.sampled_from([6.0, 20.0]),
        interval=st.sampled_from([1.0, 4.0]),
        stop_before=st.sampled_from([0.0, 5.0]),
    )
    def open(self, lease: float, interval: float, stop_before: float) -> None:
        self.now = 100.0
        self.how = {"lease": lease, "interval": interval, "stop_before": stop_before}
        self.one = LeaseKeeper(sent_at=self.now, **self.how)
        self.naive = NaiveKeeper(sent_at=self.now, **self.how)

    @rule(span=SPANS, looks=st.booleans())
    def pass_by(self, span: float, *, looks: bool) -> None:
        self.now += span
        if looks:
            self.both(self.one.observed(self.now), self.naive.observed(self.now))

    @rule(name=NAMES, quantity=st.integers(1, 3), ago=SPANS, remaining=st.none() | SPANS)
    def grant(self, name: str, quantity: int, ago: float, remaining: float | None) -> None:
        for each in (self.one, self.naive):
            # Of one name, all grants are of one kind.
            each.granted(name, quantity, leased=name != "d", sent_at=self.now - ago, remaining=remaining)

    @rule(name=NAMES)
    def give_back(self, name: str) -> None:
        for each in (self.one, self.naive):
            each.forgotten(name)

    @rule(
        ago=SPANS,
        remaining=SPANS,
        longer=SPANS,
        interval=st.sampled_from([0.0, 2.0]),
        reconcile=st.sampled_from([0, 0, 7]),
    )
    def renew(self, ago: float, remaining: float, longer: float, interval: float, reconcile: int) -> None:
        told = {
            "sent_at": self.now - ago,
            "remaining": remaining,
            "continuation": remaining + longer,
            "interval": interval,
            "now": self.now,
        }
        self.both(self.one.renewed(reconcile=reconcile, **told), self.naive.renewed(reconcile=reconcile, **told))

    @rule(name=NAMES | st.none(), closes=st.booleans(), early=SPANS)
    def notice(self, name: str | None, early: float, *, closes: bool) -> None:
        error: LeaseLost = PoolClosed() if closes else Revoked()
        # What is said of all ends with the session's present promise, which is never shortened.
        final_at = self.one.deadline - (early if name is not None else 0) if closes else None
        told = self.one.noticed(name, error, final_at=final_at, now=self.now)
        self.both(told, self.naive.noticed(name, error, final_at=final_at, now=self.now))

    @rule(everything=st.booleans())
    def end(self, *, everything: bool) -> None:
        error: LeaseLost = NodeRevoked() if everything else LeaseExpired()
        told = self.one.ended(error, everything=everything, now=self.now)
        self.both(told, self.naive.ended(error, everything=everything, now=self.now))

    @rule()
    def beat(self) -> None:
        self.one.beat()
        self.naive.beat()

    @rule(names=st.permutations(["a", "b", "c", "d"]), number=st.integers(1, 4))
    def move(self, names: list[str], number: int) -> None:
        """Into a session that is opened now; what does not go there is lost with the old one."""
        one, naive = LeaseKeeper(sent_at=self.now, **self.how), NaiveKeeper(sent_at=self.now, **self.how)
        for name in names[:number]:
            carried, left = self.one.left(name, self.now), self.naive.left(name, self.now)
            assert (carried is None) == (left is None)
            if carried is not None and left is not None:
                assert carried.until == left[1]
                one.carried(carried, prove=True)
                naive.carried(name, *left)
        self.one, self.naive = one, naive

    def both(self, told: list[Change], expected: list[Change]) -> None:
        assert sorted(map(_seen, told)) == sorted(map(_seen, expected))

    @invariant()
    def they_agree(self) -> None:
        if not hasattr(self, "one"):
            return
        digest = Digest()
        for name, holding in self.naive.held.items():
            digest.put(name, holding.quantity)
        account = self.one.account(1)
        assert (account.count, account.digest) == (digest.count, digest.value)
        assert dict(account.known) == {name: holding.quantity for name, holding in self.naive.held.items()}
        assert self.one.deadline == self.naive.deadline
        assert set(self.one.names) == set(self.naive.held)
        for name in ("a", "b", "c", "d"):
            assert self.one.knows(name) == (name in self.naive.held)
            assert self.one.held_until(name) == self.naive.held_until(name)
            for ahead in (0, 1, 7, 1000):
                assert self.one.state(name, self.now + ahead) is self.naive.state(name, self.now + ahead)
        assert self.one.changes_at(self.now) == max(self.now, self.naive.changes_at())


def _seen(change: Change) -> tuple[str, str, bool, str]:
    error = None if change.error is None or type(change.error) is LeaseExpired else type(change.error)
    return change.allocation, change.state, change.final, str(error)


Keepers.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
test_it_says_what_one_says_that_looks_at_everything = pytest.mark.invariant("SDK-COST")(Keepers.TestCase)


def _grant(one: LeaseKeeper) -> None:
    one.granted("new", 1, leased=True, sent_at=1, remaining=20)
    one.observed(1)
    one.forgotten("new")


def _renew(one: LeaseKeeper) -> None:
    one.renewed(sent_at=2, remaining=20, continuation=20, interval=5, reconcile=0, now=3)


def _look(one: LeaseKeeper) -> None:
    one.observed(4)
    one.changes_at(4)


def _notice(one: LeaseKeeper) -> None:
    one.noticed("0", Revoked(), final_at=None, now=4)
    one.forgotten("0")


def _beat(one: LeaseKeeper) -> None:
    one.beat()


def _ask(one: LeaseKeeper) -> None:
    assert one.knows("1")
    assert not one.knows("another")
    assert one.state("1", 4) is HoldState.HELD
    one.held_until("1")
    one.why("1")


@pytest.mark.invariant("SDK-COST")
@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("work", [_grant, _renew, _look, _notice, _beat, _ask])
def test_nothing_costs_more_when_more_is_held(work: Callable[[LeaseKeeper], None], *, closed: bool) -> None:
    def cost(held: int) -> int:
        one = LeaseKeeper(sent_at=0, lease=20, interval=5)
        for number in range(held):
            one.granted(str(number), 1, leased=True, sent_at=0, remaining=20)
        if closed:
            one.noticed(None, PoolClosed(), final_at=100, now=0)
        return effort(lambda: work(one))

    assert cost(3000) == cost(30)


@pytest.mark.invariant("SDK-COST")
def test_a_lapse_and_its_end_are_told_of_each_once() -> None:
    one = LeaseKeeper(sent_at=0, lease=20, interval=5)
    for number in range(1000):
        one.granted(str(number), 1, leased=True, sent_at=0, remaining=20)
    assert len(one.observed(100)) == 1000
    assert effort(lambda: one.observed(101)) < 500
    assert len(one.renewed(sent_at=101, remaining=20, continuation=20, interval=5, reconcile=0, now=101)) == 1000
    assert (
        effort(lambda: one.renewed(sent_at=102, remaining=20, continuation=20, interval=5, reconcile=0, now=102)) < 500
    )


@pytest.mark.invariant("SDK-COST")
def test_what_a_closed_pool_took_is_passed_by_from_then_on() -> None:
    one = LeaseKeeper(sent_at=0, lease=20, interval=5)
    for number in range(1000):
        one.granted(str(number), 1, leased=True, sent_at=0, remaining=20)
    one.noticed(None, PoolClosed(), final_at=20, now=1)
    assert effort(lambda: one.noticed(None, PoolClosed(), final_at=20, now=2)) < 500
    assert len(one.renewed(sent_at=17, remaining=20, continuation=20, interval=5, reconcile=0, now=17)) == 1000
    assert one.state("1", 18) is HoldState.LOST
    assert effort(lambda: one.renewed(sent_at=18, remaining=20, continuation=20, interval=5, reconcile=0, now=18)) < 500
    assert one.changes_at(18) == math.inf
