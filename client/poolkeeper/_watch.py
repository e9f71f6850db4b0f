"""Waiting for an answer, as long as its daemon takes connections."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any, Final

from poolkeeper.errors import Unreachable

SILENCE: Final = 0.75
"""Seconds without a word after which it is looked whether the daemon is still there."""
FIRST_SILENCE: Final = 3.0
"""The same before the first word. Who has only just come may stand in a crowd that starts, to which every look is work,
and the host was there a moment ago: it has taken the connection."""
SPARING: Final = 4.0
"""By which factor each silence is longer than the one before until it is looked again."""


class Look:
    """Looks whether a daemon is lost; whoever wants to know at the same time shares one look.

    That it takes connections does not say that it will answer: one that hangs may do so for ever.
    """

    def __init__(self, is_lost: Callable[[], Awaitable[bool]]) -> None:
        """Nothing is looked at yet. `is_lost` makes the connections; a fault of it says nothing."""
        self.there_at = -math.inf
        """When it was there at the last look, by the loop's clock."""
        self.silence = FIRST_SILENCE
        """Seconds after which it is looked again."""
        self._is_lost = is_lost
        self._task: asyncio.Task[bool] | None = None
        self._asking = 0

    def heard(self) -> None:
        """It has answered."""
        self.silence = SILENCE

    async def is_lost(self) -> bool:
        """What this look says, or the one that is under way."""
        task = self._task = self._task or asyncio.create_task(self._looked(), name="poolkeeper-look")
        self._asking += 1
        try:
            return await asyncio.shield(task)
        finally:
            self._asking -= 1
            if not self._asking:
                self._task = None
                task.cancel()
                await asyncio.wait([task])

    async def _looked(self) -> bool:
        try:
            lost = await self._is_lost()
        except Exception:  # noqa: BLE001 - whatever it is, it is not the caller's.
            lost = False
        if not lost:
            self.there_at = asyncio.get_running_loop().time()
            self.silence *= SPARING
        return lost


async def answered(
    answer: asyncio.Future[Any],
    *,
    limit: float | None,
    look: Look | None,
    heard_at: Callable[[], float] = lambda: -math.inf,
) -> bool:
    """Whether there is an answer, or the future was given up; False when the daemon is lost before that.

    A daemon that does not answer may be gone, or have a crowd to serve: one who leaves it then has waited for nothing,
    makes it more work, and goes to the end of the line. When all do so after the same few seconds, nobody is served any
    more (the simulation of tests/bench/growth shows it). So it is left at once only for one that is there when it is
    not itself. `heard_at` tells when the daemon has said something of any kind, by the loop's clock.

    Raises:
        Unreachable: after `limit` seconds; as with a daemon that is lost, nobody knows whether the request happened.
    """
    now = asyncio.get_running_loop().time
    began = now()
    end = math.inf if limit is None else began + limit
    looking: asyncio.Task[bool] | None = None
    try:
        while not answer.done():
            if now() >= end:
                raise Unreachable(f"No answer within {now() - began:.1f} s.")
            wake = end
            if look is not None and looking is None:
                wake = min(end, max(began, heard_at(), look.there_at) + look.silence)
                if now() >= wake:
                    looking, wake = asyncio.create_task(look.is_lost()), end
            await asyncio.wait(
                [answer] if looking is None else [answer, looking],
                timeout=None if wake == math.inf else wake - now(),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if looking is not None and looking.done():
                if looking.result() and not answer.done():
                    return False
                looking = None
        if look is not None:
            look.heard()
        return True
    finally:
        if looking is not None:
            looking.cancel()
            await asyncio.wait([looking])
