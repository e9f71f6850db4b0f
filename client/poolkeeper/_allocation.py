"""An allocation as the program holds it."""

# ruff: noqa: SLF001 - a client and its allocations are one thing in two modules.

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Self

from poolkeeper._core.lease import HoldState
from poolkeeper._records import CheckInReason, instant_in
from poolkeeper._session import Session
from poolkeeper.errors import Denied, LeaseLost, PoolkeeperError, Unreachable
from poolkeeper.v1 import licensing_pb2 as pb

if TYPE_CHECKING:
    from poolkeeper.aio import AsyncClient

OnLost = Callable[["AsyncAllocation", LeaseLost], Awaitable[None] | None]
OnRegained = Callable[["AsyncAllocation"], Awaitable[None] | None]

_log = logging.getLogger("poolkeeper")


class AsyncAllocation:
    """Seats that this program holds; leaving it as a context manager checks them in."""

    def __init__(
        self,
        client: AsyncClient,
        session: Session,
        granted: pb.Granted,
        *,
        on_lost: OnLost | None,
        on_regained: OnRegained | None,
    ) -> None:
        """Made by a client's `check_out`."""
        self._client = client
        self._session = session
        self._granted = granted
        self._on_lost = on_lost
        self._on_regained = on_regained
        self._fence = granted.fence
        self._lost: LeaseLost | None = None
        self._told_lost = False
        self._stopped = False
        self._ended = False
        self._telling = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} {self.product} x{self.quantity} {self.state}>"

    @property
    def name(self) -> str:
        """For example estates/acme/pools/west/allocations/01j…."""
        return self._granted.allocation.name

    @property
    def product(self) -> str:
        """For example products/encoder-1x1."""
        return self._granted.allocation.product

    @property
    def quantity(self) -> int:
        """Seats that this program has; a shared allocation may have more."""
        return self._granted.quantity

    @property
    def grant(self) -> str:
        """The signed statement, for `poolkeeper.grants.verify_grant`; empty when the daemon gave none."""
        return self._granted.grant

    @property
    def fence(self) -> tuple[int, int]:
        """Epoch and sequence: greater than those of every earlier grant of the pool."""
        return self._granted.fence.epoch, self._granted.fence.sequence

    @property
    def resumed(self) -> bool:
        """Whether it is the consumer's own seat, taken up again from quarantine (CC-22)."""
        return self._granted.resumed

    @property
    def installed(self) -> bool:
        """Whether it lives until it is checked in, whatever happens to the session."""
        return self._granted.allocation.kind == pb.ALLOCATION_KIND_INSTALLED

    @property
    def state(self) -> HoldState:
        """What the program may believe at this instant."""
        if self._ended:
            return HoldState.ENDED
        if self._lost is not None:
            return HoldState.LOST
        return self._session.keeper.state(self.name, self._client._clock.now())

    @property
    def error(self) -> LeaseLost | None:
        """Why it is LOST, or None."""
        return self._lost or self._session.keeper.why(self.name)

    @property
    def held_for(self) -> float | None:
        """Seconds for which the program may go on without another word; never negative.

        None when silence does not end it, as with installed allocations.
        """
        if self._ended or self._lost is not None:
            return 0.0
        until = self._session.keeper.held_until(self.name)
        return None if until is None else max(0.0, until - self._client._clock.now())

    @property
    def held_until(self) -> datetime | None:
        """The instant, in UTC, up to which the program may believe that it holds the seats.

        It lies `stop_before` ahead of the promise's end and moves on with every answered heartbeat.
        None when silence does not end it.
        """
        left = self.held_for
        return None if left is None else instant_in(left)

    async def check_in(self, reason: CheckInReason = CheckInReason.ENDED) -> None:
        """Gives the seats back; again, or after they were lost, it has no further effect.

        Raises Unreachable when no daemon answers in time; it is then tried further in the background,
        and the seats are free at the latest when the promise ends.
        """
        if self._ended:
            return
        self._ended = True
        await self._client._give_back(self, reason)

    async def __aenter__(self) -> Self:
        """The allocation."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Checks in. That no daemon answers does not hide what happened within."""
        try:
            await self.check_in()
        except Unreachable:
            _log.debug("the check-in of %s goes on in the background", self.name)


@dataclass(frozen=True, slots=True)
class AsyncBatchResult:
    """One result of a batch: an allocation or the error."""

    allocation: AsyncAllocation | None
    error: PoolkeeperError | None

    def unwrap(self) -> AsyncAllocation:
        """The allocation, or raises the error."""
        if self.allocation is None:
            raise self.error or Denied()
        return self.allocation
