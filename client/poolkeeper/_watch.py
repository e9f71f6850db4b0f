"""Waiting for an answer, as long as its daemon is there."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any, Final

from poolkeeper.errors import Unreachable

SILENCE: Final = 0.75
"""Seconds without a word after which it is looked whether the daemon is still there."""
SPARING: Final = 4.0
"""By which factor each silence is longer than the one before until it is looked again."""

IsLost = Callable[[], Awaitable[bool]]
"""Whether a daemon takes no connection any more while another one does."""


async def answered(
    answer: asyncio.Future[Any],
    *,
    limit: float | None,
    is_lost: IsLost | None,
    heard_at: Callable[[], float] = lambda: -math.inf,
) -> None:
    """Returns when there is an answer, or when the future was given up.

    A daemon that does not answer may be gone, or have a crowd to serve: one who leaves it then has waited for nothing,
    makes it more work, and goes to the end of the line. When all do so after the same few seconds, nobody is served any
    more (the simulation of tests/bench/growth shows it). So it is left at once only for one that is there when it is
    not itself. `heard_at` tells when the daemon has said something of any kind, by the loop's clock.

    Raises:
        Unreachable: after `limit` seconds, or when the daemon is lost; whether the request happened is then unknown.
    """
    now = asyncio.get_running_loop().time
    began = since = now()
    end = math.inf if limit is None else began + limit
    silence = SILENCE
    look: asyncio.Task[bool] | None = None
    try:
        while not answer.done():
            if now() >= end:
                raise Unreachable(f"No answer within {now() - began:.1f} s.")
            wake = end
            if is_lost is not None and look is None:
                wake = min(end, max(since, heard_at()) + silence)
                if now() >= wake:
                    look, wake = asyncio.create_task(_looked(is_lost), name="poolkeeper-look"), end
            await asyncio.wait(
                [answer] if look is None else [answer, look],
                timeout=None if wake == math.inf else wake - now(),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if look is not None and look.done():
                if look.result() and not answer.done():
                    raise Unreachable(f"The daemon was silent for {now() - began:.1f} s, and another one is there.")
                look, since, silence = None, now(), silence * SPARING
    finally:
        if look is not None:
            look.cancel()
            await asyncio.wait([look])


async def _looked(is_lost: IsLost) -> bool:
    return await is_lost()
