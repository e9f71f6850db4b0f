"""Large requests of nodes: few of one node at a time, and one after the other in the loop, by turns and in slices.

A message of a thousand check-outs takes as long as a thousand messages, and nobody else is heard meanwhile unless it
lets go of the loop again and again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

from poolkeeper_server.domain.moment import SECOND
from poolkeeper_server.domain.refusal import Reason, Refusal
from poolkeeper_server.services import metrics
from poolkeeper_server.services.lanes import Lanes, Sender

#: What a request has more of than this (check-outs, heartbeats, names) is large; it is looked at in slices of as many.
SLICE: Final = 64
#: Large requests of one node that are not answered yet, and beside them heartbeats that name thousands: a node has
#: many sessions.
MOST_UNDER_WAY: Final = 4
MOST_HEARTBEATS: Final = 16


class Large:
    """Who may have a large request looked at, and whose turn it is."""

    def __init__(self) -> None:
        self._under_way: Counter[Sender] = Counter()
        self._waiting: Lanes[asyncio.Future[None]] = Lanes()
        self._taken = False

    @contextmanager
    def under_way(self, sender: Sender, *, most: int = MOST_UNDER_WAY) -> Iterator[None]:
        """A large request from its beginning to its answer. Raises Refusal when the node has too many."""
        if self._under_way[sender] >= most:
            metrics.LARGE_REFUSED.inc()
            raise Refusal(
                Reason.OVERLOADED,
                f"This node has {most} large requests under way already.",
                hint="Send one after the other, or smaller ones.",
                retry_after=SECOND,
            )
        self._under_way[sender] += 1
        try:
            yield
        finally:
            self._under_way[sender] -= 1
            if not self._under_way[sender]:
                del self._under_way[sender]

    @asynccontextmanager
    async def turn(self, sender: Sender) -> AsyncIterator[None]:
        """The time in which a large request is looked at, while no other one is."""
        if self._taken:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.add(sender, turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._pass_on()
                raise
        self._taken = True
        try:
            yield
        finally:
            self._pass_on()

    def _pass_on(self) -> None:
        while (popped := self._waiting.pop()) is not None:
            if not popped[2].done():
                popped[2].set_result(None)
                return
        self._taken = False
