"""The clock that leases are counted on: one that is never set and counts suspend where that exists."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Protocol

_SLICE = 1.0


class Clock(Protocol):
    """Lease time of a client, in seconds."""

    def now(self) -> float:
        """The present instant."""

    async def until(self, instant: float, signal: asyncio.Event) -> None:
        """Returns at the instant, or earlier when the signal is set."""


class BootClock:
    """CLOCK_BOOTTIME on Linux; elsewhere the monotonic clock (CC-16)."""

    def now(self) -> float:
        """Seconds since the machine started."""
        if hasattr(time, "CLOCK_BOOTTIME"):
            return time.clock_gettime(time.CLOCK_BOOTTIME)
        return time.monotonic()

    async def until(self, instant: float, signal: asyncio.Event) -> None:
        """Waits in slices: the event loop's own clock stands still while the machine is suspended."""
        while not signal.is_set() and (left := instant - self.now()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, _SLICE)):
                    await signal.wait()
