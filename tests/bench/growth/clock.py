"""Virtual time: what is to happen next, and nothing ever waits."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush

_Event = tuple[float, int, Callable[..., None], tuple[object, ...]]


class Clock:
    """Seconds since the beginning, and the events to come; those of one instant happen in the order of their making."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[_Event] = []
        self._made = 0

    def at(self, instant: float, act: Callable[..., None], *given: object) -> None:
        """Has something happen then, or now if that is past."""
        self._made += 1
        heappush(self._events, (max(instant, self.now), self._made, act, given))

    def run(self, until: float) -> None:
        """Lets everything happen that is due before that instant, which then is the present."""
        events = self._events
        while events and events[0][0] < until:
            self.now, _, act, given = heappop(events)
            act(*given)
        self.now = max(self.now, until)

    # What `services.clock.HostClock` asks of a host.

    def monotonic(self) -> int:
        """Microseconds; not 0 at the beginning, since no host has just booted."""
        return 1_000_000_000 + round(self.now * 1_000_000)

    def civil(self) -> int:
        """Microseconds UTC, from 2026-06-01 on."""
        return 1_780_272_000_000_000 + round(self.now * 1_000_000)

    def boot_time(self) -> int:
        """As monotonic."""
        return self.monotonic()

    def boot_id(self) -> str:
        """There is one boot only."""
        return "growth"

    def database(self, told: int) -> int:
        """There is one clock only."""
        del told
        return self.civil()
