import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolkeeper._core.lease import HoldState, LeaseKeeper
from poolkeeper.errors import LeaseExpired, NodeRevoked, PoolClosed, Revoked

NAME = "estates/acme/pools/west/allocations/1"


def keeper(*, lease: float = 120, interval: float = 30, stop_before: float = 5) -> LeaseKeeper:
    """A session opened at 0 that holds one allocation."""
    made = LeaseKeeper(sent_at=0, lease=lease, interval=interval, stop_before=stop_before)
    made.granted(NAME, 1, leased=True, sent_at=0, remaining=lease)
    return made


def renew(one: LeaseKeeper, *, sent_at: float, now: float, reconcile: int = 0) -> list[HoldState]:
    changes = one.renewed(sent_at=sent_at, remaining=120, continuation=1000, interval=30, reconcile=reconcile, now=now)
    return [change.state for change in changes]


@pytest.mark.parametrize(
    ("now", "state"),
    [
        (0, HoldState.HELD),
        (44.9, HoldState.HELD),
        (45, HoldState.DOUBTFUL),
        (114.9, HoldState.DOUBTFUL),
        (115, HoldState.LOST),
        (1e9, HoldState.LOST),
    ],
)
def test_silence_makes_it_doubtful_and_then_lost_ahead_of_the_deadline(now: float, state: HoldState) -> None:
    assert keeper().state(NAME, now) is state


def test_the_promise_counts_from_the_moment_the_renewal_was_sent() -> None:
    one = keeper()
    renew(one, sent_at=30, now=44)
    assert one.held_until(NAME) == 30 + 120 - 5


def test_a_promise_is_never_shortened() -> None:
    one = keeper()
    renew(one, sent_at=30, now=31)
    one.renewed(sent_at=10, remaining=20, continuation=20, interval=30, reconcile=0, now=32)
    assert one.deadline == 150


@pytest.mark.parametrize(("lease", "stop_before"), [(6, 1.5), (20, 5), (120, 5)])
def test_a_short_lease_gives_at_most_a_quarter_away(lease: float, stop_before: float) -> None:
    assert keeper(lease=lease).held_until(NAME) == lease - stop_before


def test_what_was_lost_by_silence_comes_back_when_the_session_is_open_still() -> None:
    one = keeper()
    (lost,) = one.observed(116)
    assert (lost.state, type(lost.error), lost.final) == (HoldState.LOST, LeaseExpired, False)
    assert renew(one, sent_at=117, now=118) == [HoldState.HELD]
    assert one.state(NAME, 118) is HoldState.HELD


def test_a_renewal_that_comes_after_the_deadline_tells_the_loss_first() -> None:
    assert renew(keeper(), sent_at=300, now=301) == [HoldState.LOST, HoldState.HELD]


def test_it_stays_lost_while_the_daemon_sees_it_differently() -> None:
    one = keeper()
    one.observed(116)
    assert renew(one, sent_at=117, now=118, reconcile=7) == []
    assert one.state(NAME, 118) is HoldState.LOST
    assert renew(one, sent_at=118, now=119) == [HoldState.HELD]


def test_a_revoked_allocation_is_lost_at_once_and_for_good() -> None:
    one = keeper()
    (lost,) = one.noticed(NAME, Revoked(), final_at=None, now=1)
    assert (lost.state, type(lost.error), lost.final) == (HoldState.LOST, Revoked, True)
    assert renew(one, sent_at=2, now=3) == []
    assert one.noticed(NAME, Revoked(), final_at=None, now=4) == []
    # It may still be running: the daemon must not take it for unknown and check it in.
    assert one.beat().count == 1
    one.forgotten(NAME)
    assert one.beat().count == 0


def test_a_closed_pool_lets_it_run_to_the_end_of_its_last_promise() -> None:
    one = keeper()
    assert one.noticed(NAME, PoolClosed(), final_at=one.deadline, now=1) == []
    renew(one, sent_at=30, now=31)
    assert one.held_until(NAME) == 115
    (lost,) = one.observed(115)
    assert isinstance(lost.error, PoolClosed)


def test_the_end_of_the_session_ends_its_leases_but_not_what_is_installed() -> None:
    one = keeper()
    one.granted("installed", 1, leased=False, sent_at=0, remaining=120)
    one.beat()
    renew(one, sent_at=0, now=1)
    changes = one.ended(LeaseExpired(), everything=False, now=1)
    assert [(change.allocation, change.final) for change in changes] == [(NAME, True)]
    assert one.state("installed", 900) is HoldState.HELD


def test_a_revoked_node_loses_everything() -> None:
    one = keeper()
    one.granted("installed", 1, leased=False, sent_at=0, remaining=None)
    assert len(one.ended(NodeRevoked(), everything=True, now=1)) == 2


def test_a_loss_by_silence_that_becomes_final_is_told_again() -> None:
    one = keeper()
    one.observed(116)
    (change,) = one.ended(LeaseExpired(), everything=False, now=200)
    assert change.final


def test_all_allocations_are_in_the_digest_and_with_their_sizes_in_what_is_known() -> None:
    one = keeper()
    one.granted("installed", 3, leased=False, sent_at=0, remaining=120)
    assert (one.beat(["r1"]).count, one.beat(["r1"]).known) == (2, ())
    renew(one, sent_at=1, now=2, reconcile=9)
    beat = one.beat(["r1"])
    assert (beat.as_of, beat.known, beat.pending) == (9, ((NAME, 1), ("installed", 3)), ("r1",))


def test_what_is_installed_lasts_as_a_lease_until_a_heartbeat_that_named_it_is_agreed_on() -> None:
    one = keeper()
    one.beat()
    one.granted("installed", 1, leased=False, sent_at=1, remaining=120)
    renew(one, sent_at=0, now=2)  # It was about what was held before.
    assert one.held_until("installed") == 120 - 5
    one.beat()
    renew(one, sent_at=3, now=4, reconcile=9)
    assert one.held_until("installed") == 123 - 5
    one.beat()
    renew(one, sent_at=5, now=6)
    assert one.held_until("installed") == 1005 - 5
    assert one.state("installed", 900) is HoldState.HELD
    assert one.state("installed", 1000) is HoldState.LOST


def test_what_is_installed_and_named_outlasts_its_session() -> None:
    one = keeper()
    one.granted("named", 1, leased=False, sent_at=0, remaining=120)
    one.beat()
    renew(one, sent_at=1, now=2)
    one.granted("unnamed", 1, leased=False, sent_at=3, remaining=120)
    lost = one.ended(LeaseExpired(), everything=False, now=10)
    assert {change.allocation for change in lost} == {NAME, "unnamed"}
    found = one.left("named", 10)
    assert found is not None
    two = LeaseKeeper(sent_at=10, lease=120, interval=30)
    two.carried(found, prove=False)
    assert two.held_until("named") == 1001 - 5
    two.beat()
    renew(two, sent_at=20, now=21)
    assert two.held_until("named") == 1020 - 5


def test_it_reconciles_at_once_but_never_in_a_loop() -> None:
    one = keeper()
    renew(one, sent_at=10, now=11, reconcile=9)
    assert one.beat_at(0.5) <= 11
    renew(one, sent_at=11, now=12, reconcile=10)
    assert one.beat_at(0) == 11 + 30


@given(st.floats(0, 1))
def test_a_heartbeat_is_due_within_the_interval_and_not_much_before(jitter: float) -> None:
    assert 24 <= keeper().beat_at(jitter) <= 30


def test_the_daemon_sets_the_pace() -> None:
    one = keeper()
    one.paced(60)
    assert one.beat_at(0) == 60
    one.paced(0)
    assert one.interval == 60


@given(st.lists(st.tuples(st.floats(0, 200), st.floats(0, 50), st.floats(0, 200)), min_size=1, max_size=20))
def test_it_never_believes_longer_than_some_promise_that_was_made(
    renewals: list[tuple[float, float, float]],
) -> None:
    one, now, promised = keeper(), 0.0, 120.0
    for gap, delay, remaining in renewals:
        sent_at = now + gap
        now = sent_at + delay
        promised = max(promised, sent_at + remaining)
        one.renewed(sent_at=sent_at, remaining=remaining, continuation=1000, interval=30, reconcile=0, now=now)
        until = one.held_until(NAME)
        assert until is not None
        assert until <= promised - one.stop_before
        assert one.state(NAME, promised) is HoldState.LOST


def test_the_next_change_is_when_time_alone_makes_one() -> None:
    one = keeper()
    assert one.changes_at(0) == 115
    assert one.changes_at(116) == 116
    one.observed(116)
    assert one.changes_at(116) == math.inf
    assert LeaseKeeper(sent_at=0, lease=120, interval=30).changes_at(0) == math.inf


def test_what_is_carried_over_is_held_to_the_end_of_its_promise_until_it_is_confirmed() -> None:
    one = keeper()
    two = LeaseKeeper(sent_at=100, lease=120, interval=30)
    found = one.left(NAME, 100)
    assert found is not None
    two.carried(found, prove=True)
    assert (one.names, two.names) == ((), (NAME,))
    assert two.held_until(NAME) == 120 - 5
    assert two.state(NAME, 115) is HoldState.LOST
    # The first heartbeat says that it is known; asked again, it is not confirmed yet.
    assert (two.beat().as_of, two.beat().known, two.beat().count) == (1, ((NAME, 1),), 1)
    renew(two, sent_at=101, now=102, reconcile=2)
    assert two.held_until(NAME) == 120 - 5
    renew(two, sent_at=103, now=104)
    assert two.held_until(NAME) == 103 + 120 - 5
    assert two.beat().as_of == 0


def test_what_was_told_lost_and_is_carried_over_comes_back_when_it_is_confirmed() -> None:
    one = keeper()
    one.observed(116)
    two = LeaseKeeper(sent_at=116, lease=120, interval=30)
    found = one.left(NAME, 117)
    assert found is not None
    two.carried(found, prove=True)
    assert two.observed(117) == []
    assert renew(two, sent_at=117, now=118) == [HoldState.HELD]


def test_nothing_is_carried_over_that_is_not_promised_any_more() -> None:
    one = keeper()
    assert one.left(NAME, 120) is None
    one.noticed(NAME, Revoked("taken back"), final_at=None, now=10)
    assert one.left(NAME, 10) is None
    assert one.left("another", 10) is None
