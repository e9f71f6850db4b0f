"""An allocation as the program holds it."""

# ruff: noqa: SLF001 - a client and its allocations are one thing in two modules.

from __future__ import annotations

import asyncio
import logging
import weakref
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


class Holding:
    """Seats that a client holds, for one or several parts of its program that asked for them on the same behalf."""

    __slots__ = ("fence", "granted", "holders", "lost", "request", "session", "telling")

    def __init__(self, session: Session, request: pb.CheckOutRequest, granted: pb.Granted) -> None:
        """Nobody has it yet."""
        self.session = session
        self.request = request
        """The last one that was answered with it."""
        self.granted = granted
        self.fence = granted.fence
        self.lost: LeaseLost | None = None
        """Why it cannot come back."""
        self.holders: list[Holder] = []
        self.telling = asyncio.Lock()

    @property
    def name(self) -> str:
        """The allocation's name."""
        return self.granted.allocation.name

    @property
    def installed(self) -> bool:
        """Whether silence does not end it."""
        return self.granted.allocation.kind == pb.ALLOCATION_KIND_INSTALLED

    @property
    def stopped(self) -> bool:
        """Whether everybody who has it was told of its loss, and does not use it any more."""
        return bool(self.holders) and all(holder.stopped for holder in self.holders)

    def granted_again(self, request: pb.CheckOutRequest, granted: pb.Granted) -> None:
        """Somebody asked for it who has it already, or on whose behalf another has."""
        granted.grant = granted.grant or self.granted.grant
        self.request, self.granted = request, granted

    def taken(self, *, on_lost: OnLost | None, on_regained: OnRegained | None) -> Holder:
        """One more has it. Who has let go of its `AsyncAllocation` leaves its callbacks to the next."""
        holder = Holder(on_lost, on_regained)
        for other in [other for other in self.holders if other.gone]:
            self.holders.remove(other)
            holder.on_lost = holder.on_lost or other.on_lost
            holder.on_regained = holder.on_regained or other.on_regained
        self.holders.append(holder)
        return holder

    def left(self, holder: Holder) -> None:
        """One of them gives it back."""
        holder.ended = True
        if holder in self.holders:
            self.holders.remove(holder)

    @property
    def unused(self) -> bool:
        """Whether nobody is left who could give it back, or has not stopped for its loss yet."""
        return all(holder.gone or (holder.stopped and self.lost is not None) for holder in self.holders)


@dataclass(slots=True, eq=False, weakref_slot=True)
class Holder:
    """One who asked for seats."""

    on_lost: OnLost | None
    on_regained: OnRegained | None
    ended: bool = False
    """It has given them back."""
    told_lost: bool = False
    stopped: bool = False
    _allocation: weakref.ref[AsyncAllocation] | None = None

    @property
    def gone(self) -> bool:
        """Whether the program has forgotten the allocation without giving it back."""
        return self._allocation is None or self._allocation() is None

    def allocation(self, client: AsyncClient, holding: Holding) -> AsyncAllocation:
        """What it has in hand, made anew when that was forgotten."""
        found = None if self._allocation is None else self._allocation()
        if found is None:
            found = AsyncAllocation(client, holding, self)
            self._allocation = weakref.ref(found)
        return found


class AsyncAllocation:
    """Seats that this program holds; leaving it as a context manager checks them in.

    Asked for again on the same behalf, they are the same seats, in the size that was asked for last, and are checked in
    when the last who asked has done so. It keeps its client open.
    """

    def __init__(self, client: AsyncClient, holding: Holding, holder: Holder) -> None:
        """Made by a client's `check_out`."""
        self._client = client
        self._holding = holding
        self._holder = holder

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} {self.product} x{self.quantity} {self.state}>"

    @property
    def name(self) -> str:
        """For example estates/acme/pools/west/allocations/01j…."""
        return self._holding.granted.allocation.name

    @property
    def product(self) -> str:
        """For example products/encoder-1x1."""
        return self._holding.granted.allocation.product

    @property
    def quantity(self) -> int:
        """Seats that this program has; a shared allocation may have more."""
        return self._holding.session.keeper.quantity(self.name) or self._holding.granted.quantity

    @property
    def grant(self) -> str:
        """The signed statement, for `poolkeeper.grants.verify_grant`; empty when the daemon gave none."""
        return self._holding.granted.grant

    @property
    def fence(self) -> tuple[int, int]:
        """Epoch and sequence: greater than those of every earlier grant of the pool."""
        return self._holding.granted.fence.epoch, self._holding.granted.fence.sequence

    @property
    def resumed(self) -> bool:
        """Whether it is the consumer's own seat, taken up again from quarantine (CC-22)."""
        return self._holding.granted.resumed

    @property
    def installed(self) -> bool:
        """Whether it lives until it is checked in, whatever happens to the session."""
        return self._holding.installed

    @property
    def state(self) -> HoldState:
        """What the program may believe at this instant."""
        if self._holder.ended:
            return HoldState.ENDED
        if self._holding.lost is not None:
            return HoldState.LOST
        return self._holding.session.keeper.state(self.name, self._client._clock.now())

    @property
    def error(self) -> LeaseLost | None:
        """Why it is LOST, or None."""
        return self._holding.lost or self._holding.session.keeper.why(self.name)

    @property
    def held_for(self) -> float | None:
        """Seconds for which the program may go on without another word; never negative.

        None when silence does not end it. What is installed goes on for its pool's continuation, 40 days by default.
        """
        if self._holder.ended or self._holding.lost is not None:
            return 0.0
        until = self._holding.session.keeper.held_until(self.name)
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
        """Gives the seats back, or leaves them to others of this program who asked for them on the same behalf.

        Again, or after they were lost, it has no further effect.

        Raises Unreachable when no daemon answers in time; it is then tried further in the background,
        and the seats are free at the latest when the promise ends.
        """
        if self._holder.ended:
            return
        await self._client._give_back(self._holding, self._holder, reason)

    async def __aenter__(self) -> Self:
        """The allocation."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Checks in, unless it is the parent's. That no daemon answers does not hide what happened within."""
        if not self._client._is_own:
            return
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
