"""Lease time by a database server's clock, which may be set, and which takes its time to answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolkeeper_server.domain.moment import DAY, SECOND
from poolkeeper_server.services.clock import LONGEST_STEP
from poolkeeper_server.services.shared_clock import SharedClock
from poolkeeper_server.storage.store import Mark
from tests.inprocess.installation import DrivenTime

MILLISECOND = 1_000
#: What lease time may be ahead by.
READING = 20 * MILLISECOND
delays = st.integers(min_value=0, max_value=300 * MILLISECOND)


class World(DrivenTime):
    """A host, and a database server whose clock is `off`."""

    def __init__(self) -> None:
        super().__init__()
        self.off = 0
        now = self.monotonic_now
        self.mark = Mark(epoch=1, lease=0, civil=now, reference=now, boot_id=self.boot, boot_time=now, frozen="")

    def database(self, told: int) -> int:
        """As it was told."""
        return told

    def read(self, clock: SharedClock, *, there: int = 0, back: int = 0) -> int:
        """A transaction that reads the server's clock after `there` and hears of it after `back`; gives when it did."""
        clock.ask()
        self.monotonic_now += there
        read, told = self.monotonic_now, self.monotonic_now + self.off
        self.monotonic_now += back
        now = clock.moment(self.mark, told)
        self.mark = clock.mark(now)
        clock.committed(now)
        return read


steps = st.tuples(
    st.integers(min_value=0, max_value=3 * SECOND),
    st.integers(min_value=0, max_value=40 * MILLISECOND),
    st.integers(min_value=0, max_value=40 * MILLISECOND),
    st.sampled_from([0, 0, 0, 3_600 * SECOND, -3_600 * SECOND, 5 * SECOND, -5 * SECOND, 3_650 * DAY]),
    st.sampled_from(["", "", "restarted", "another host"]),
)


@given(st.lists(steps, max_size=20))
def test_lease_time_never_runs_ahead_whatever_the_servers_clock_does(
    turns: list[tuple[int, int, int, int, str]],
) -> None:
    world = World()
    clock = SharedClock(world, world.mark)
    before, lease = world.read(clock), world.mark.lease
    for gap, there, back, step, change in turns:
        world.monotonic_now += gap
        world.off += step
        if change == "another host":
            world.boot += "'"
        if change:
            clock = SharedClock(world, world.mark)
        read = world.read(clock, there=there, back=back)
        if step and change == "another host":
            # It has nothing to hold the server's clock against.
            assert 0 <= world.mark.lease - lease <= LONGEST_STEP
        else:
            assert 0 <= world.mark.lease - lease <= read - before
        before, lease = read, world.mark.lease


@given(st.lists(st.tuples(delays, delays), min_size=1, max_size=50))
def test_readings_of_a_right_clock_lose_no_lease_time_however_long_they_take(taken: list[tuple[int, int]]) -> None:
    world = World()
    clock = SharedClock(world, world.mark)
    began = read = world.read(clock)
    lease = world.mark.lease
    for there, back in taken:
        read = world.read(clock, there=there, back=back)
    assert world.mark.lease - lease == read - began


@given(st.lists(st.tuples(delays, delays, st.integers(min_value=-50 * MILLISECOND, max_value=50 * MILLISECOND))))
def test_a_clock_that_is_made_to_run_fast_takes_no_more_than_one_reading(turns: list[tuple[int, int, int]]) -> None:
    world = World()
    clock = SharedClock(world, world.mark)
    began, lease = world.read(clock), world.mark.lease
    for there, back, step in turns:
        world.off += step
        world.monotonic_now += 10 * MILLISECOND
        read = world.read(clock, there=there, back=back)
        assert world.mark.lease - lease <= read + back - began + READING


def test_a_clock_that_is_slewed_as_fast_as_clocks_are() -> None:
    world = World()
    clock = SharedClock(world, world.mark)
    began = read = world.read(clock)
    lease = world.mark.lease
    for _ in range(12_000):
        world.monotonic_now += 10 * MILLISECOND
        world.off += MILLISECOND
        read = world.read(clock, back=200)
    # What the readings take is lost while it runs fast; nothing is gained.
    assert 0.95 * (read - began) <= world.mark.lease - lease <= read - began + READING


@pytest.mark.parametrize("step", [-3_600 * SECOND, 3_600 * SECOND])
def test_a_clock_that_was_set_stops_lease_time_for_no_longer_than_its_reading_takes(step: int) -> None:
    world = World()
    clock = SharedClock(world, world.mark)
    before, lease = world.read(clock), world.mark.lease
    world.off = step
    world.monotonic_now += SECOND
    read = world.read(clock, there=300, back=500)
    assert world.mark.lease - lease == read - before - 300
