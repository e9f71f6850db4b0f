"""What the contract tests of the SDK need of whatever they run against, and the clock that they drive."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from poolkeeper import Allocation, AsyncAllocation, HoldState

LEASE = 120.0


class Backend(Protocol):
    """A licence server under test: the fake one, or a real daemon."""

    @property
    def address(self) -> str:
        """As the SDK takes it."""

    @property
    def pin(self) -> str | None:
        """Of its CA; None without TLS."""

    def add_product(self, product: str, *, seats: int, installed: bool = False) -> None:
        """Adds seats to the pool acme/west, which leases for LEASE seconds."""

    def issue_code(self, node: str = "studio-1") -> str:
        """A code for that pool."""

    def set_minimum_allocation(self, seconds: float) -> None:
        """The pool's minimum allocation time from now on."""

    def advance(self, seconds: float, *, silent: bool = False) -> None:
        """Lets the server's time pass; with `silent` no client has renewed in the meantime."""

    def revoke(self, allocation: str) -> None:
        """An admin releases an allocation."""

    def revoke_node(self, node: str = "studio-1") -> None:
        """An admin revokes a node."""

    def available(self, product: str) -> int:
        """Free seats in the pool."""

    def quarantined(self, product: str) -> int:
        """Seats in quarantine."""

    @property
    def waiting(self) -> int:
        """Check-outs that wait."""

    def drop_connections(self) -> None:
        """Cuts every connection; clients may come back."""

    def stop(self) -> None:
        """Stops it like a crash."""

    def start(self) -> None:
        """Starts it again, at the same address, with all that it knew."""


class ManualClock:
    """Lease time of a client that passes only by `advance`."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._passed = asyncio.Event()

    def now(self) -> float:
        return self._now

    async def until(self, instant: float, signal: asyncio.Event) -> None:
        while self.now() < instant and not signal.is_set():
            waits = [asyncio.ensure_future(signal.wait()), asyncio.ensure_future(self._passed.wait())]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for one in waits:
                    one.cancel()

    def advance(self, seconds: float) -> None:
        self._now += seconds
        passed, self._passed = self._passed, asyncio.Event()
        passed.set()


async def eventually(condition: Callable[[], bool], *, within: float = 10.0) -> None:
    """Returns as soon as a condition holds; fails when it does not for so many seconds."""
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110 - the server under test may be another process.
            await asyncio.sleep(0.005)


def state_of(seat: Allocation | AsyncAllocation) -> HoldState:
    """Its state now; a type checker takes a property for something that stays."""
    return seat.state


def identity_of(directory: Path) -> Path:
    """Where a test's node keeps its identity."""
    return directory / "identity"
