"""Lease time and civil time, on a host whose clocks the test moves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from poolkeeper_server.services.clock import FAR, LONGEST_STEP, HostClock, first_mark
from poolkeeper_server.storage.store import Mark
from tests.inprocess.installation import DrivenTime

SECOND = 1_000_000
HOUR = 3600 * SECOND
YEAR = 365 * 24 * HOUR


@pytest.fixture
def host() -> DrivenTime:
    return DrivenTime()


@pytest.fixture
def frozen() -> list[str]:
    return []


@pytest.fixture
def clock(host: DrivenTime, frozen: list[str]) -> HostClock:
    return HostClock(host, first_mark(host), on_freeze=frozen.append)


def commit(clock: HostClock) -> Mark:
    now = clock.moment()
    mark = clock.mark(now)
    clock.committed(now)
    return mark


def test_lease_time_passes_from_commit_to_commit_without_loss(host: DrivenTime, clock: HostClock) -> None:
    for _ in range(100):
        host.pass_by(0.7)
        now = clock.moment()
        host.pass_by(0.3)  # the commit takes its time
        clock.committed(now)
    assert clock.glance().lease == 100 * SECOND  # nothing of the commits' own time is lost
    host.pass_by(1)
    assert clock.moment().lease == 101 * SECOND


def test_lease_time_stands_still_while_nothing_can_be_committed(host: DrivenTime, clock: HostClock) -> None:
    commit(clock)
    before = clock.glance().lease
    for _ in range(600):
        host.pass_by(1)
        clock.moment()  # a transaction that fails
    assert clock.glance().lease == before + LONGEST_STEP


def test_lease_time_does_not_know_civil_time(host: DrivenTime, clock: HostClock) -> None:
    host.civil_now += YEAR
    host.monotonic_now += SECOND
    assert clock.moment().lease == SECOND


@pytest.mark.parametrize("step", [-HOUR, HOUR, -10 * YEAR, 10 * YEAR])
def test_a_step_freezes_civil_time_which_then_goes_by_the_monotonic_clock(
    host: DrivenTime, clock: HostClock, frozen: list[str], step: int
) -> None:
    commit(clock)
    before = host.civil_now
    host.pass_by(1)
    host.civil_now += step
    now = clock.moment()
    assert now.frozen
    assert now.civil == before + SECOND
    assert len(frozen) == 1
    assert "clock accept" in clock.explanation
    commit(clock)
    host.pass_by(1)
    host.civil_now -= step
    assert not clock.moment().frozen
    assert clock.moment().civil == before + 2 * SECOND


def test_an_operator_may_accept_the_new_time(host: DrivenTime, clock: HostClock) -> None:
    commit(clock)
    host.civil_now -= HOUR
    assert clock.moment().frozen
    clock.accept()
    now = clock.moment()
    assert (now.frozen, now.civil) == (False, host.civil_now)
    clock.committed(now)
    host.pass_by(1)
    assert not clock.moment().frozen


def test_small_corrections_are_no_step_and_civil_time_does_not_go_back(host: DrivenTime, clock: HostClock) -> None:
    commit(clock)
    before = clock.glance().civil
    host.civil_now -= SECOND // 2
    assert (clock.moment().frozen, clock.moment().civil) == (False, before)
    host.pass_by(1)
    host.civil_now += FAR - SECOND
    assert not clock.moment().frozen


def test_a_start_goes_on_where_the_last_commit_was(host: DrivenTime, clock: HostClock) -> None:
    for _ in range(9):
        host.pass_by(1)
        commit(clock)
    host.pass_by(1)
    mark = commit(clock)
    host.pass_by(3 * 24 * 3600)
    again = HostClock(host, mark)
    assert again.glance().lease == 10 * SECOND
    assert (again.glance().frozen, again.glance().civil) == (False, host.civil_now)


@pytest.mark.parametrize("step", [-2 * HOUR, 2 * HOUR, 10 * YEAR, -10 * YEAR])
def test_a_step_between_two_runs_freezes_the_start(host: DrivenTime, clock: HostClock, step: int) -> None:
    mark = commit(clock)
    host.pass_by(3600)
    true = host.civil_now
    host.civil_now += step
    again = HostClock(host, mark)
    assert again.moment().frozen
    assert again.moment().civil == true


def test_after_a_boot_a_time_before_the_record_or_far_beyond_it_freezes(host: DrivenTime, clock: HostClock) -> None:
    mark = replace(commit(clock), boot_id="an earlier boot")
    true = host.civil_now
    for step, frozen in ((6 * 24 * HOUR, False), (8 * 24 * HOUR, True), (10 * YEAR, True), (-HOUR, True)):
        host.civil_now = true + step
        assert HostClock(host, mark).moment().frozen is frozen
