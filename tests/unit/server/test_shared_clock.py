"""Lease time by a database server's clock, which may be set, and which takes its time to answer."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolkeeper_server.domain.moment import DAY, SECOND
from poolkeeper_server.services.clock import LONGEST_STEP
from poolkeeper_server.services.shared_clock import SharedClock
from poolkeeper_server.storage.store import Mark

MILLISECOND = 1_000
#: Above what a reading is thought to take.
SLOW = 20 * MILLISECOND


@dataclass
class World:
    """True time, and a database server whose clock is `off`."""

    true: int = DAY
    off: int = 0
    boot: str = "boot-1"
    mark: Mark = field(
        default_factory=lambda: Mark(
            epoch=1, lease=0, civil=DAY, reference=DAY, boot_id="boot-1", boot_time=DAY, frozen=""
        )
    )

    def monotonic(self) -> int:
        """Microseconds."""
        return self.true

    def civil(self) -> int:
        """Nothing goes by it."""
        raise NotImplementedError

    def boot_time(self) -> int:
        """Microseconds."""
        return self.true

    def boot_id(self) -> str:
        """Of the host of the clock that is made now."""
        return self.boot

    def database(self, told: int) -> int:
        """As it was told."""
        return told

    def read(self, clock: SharedClock, *, there: int = 0, back: int = 0) -> int:
        """A transaction that reads the server's clock after `there` and hears of it after `back`; gives when it did."""
        clock.ask()
        self.true += there
        read, told = self.true, self.true + self.off
        self.true += back
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
        world.true += gap
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


@given(st.lists(st.integers(min_value=0, max_value=SLOW), min_size=1, max_size=50))
def test_readings_of_a_right_clock_that_take_their_time_lose_no_lease_time(delays: list[int]) -> None:
    world = World()
    clock = SharedClock(world, world.mark)
    began = read = world.read(clock)
    lease = world.mark.lease
    for delay in delays:
        read = world.read(clock, there=1, back=delay)
    assert world.mark.lease - lease == read - began


@pytest.mark.parametrize("step", [-3_600 * SECOND, 3_600 * SECOND])
def test_a_clock_that_was_set_stops_lease_time_for_no_longer_than_its_reading_takes(step: int) -> None:
    world = World()
    clock = SharedClock(world, world.mark)
    before, lease = world.read(clock), world.mark.lease
    world.off = step
    world.true += SECOND
    read = world.read(clock, there=300, back=500)
    assert world.mark.lease - lease == read - before - 300
