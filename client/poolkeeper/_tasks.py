"""The background tasks of a client: each named, none forgotten, all ended together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from typing import Any

from poolkeeper.errors import PoolkeeperError

_log = logging.getLogger("poolkeeper")


class Tasks:
    """What runs beside the program's own calls."""

    def __init__(self) -> None:
        """None yet."""
        self._running: set[asyncio.Task[None]] = set()
        self._stopped = False

    def start(self, work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None] | None:
        """Runs work until it ends or `stop` is called; what comes after that is not begun."""
        if self._stopped:
            work.close()
            return None
        task = asyncio.create_task(work, name=f"poolkeeper-{name}")
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    async def stop(self) -> None:
        """Cancels all and waits for their end."""
        self._stopped = True
        mine = asyncio.current_task()
        others = [task for task in self._running if task is not mine]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (problem := task.exception()) is not None:
            _log.error("%s failed", task.get_name(), exc_info=problem)


async def quietly(work: Coroutine[Any, Any, object]) -> None:
    """Does work whose refusal changes nothing."""
    with contextlib.suppress(PoolkeeperError):
        await work


async def to_the_end(work: Coroutine[Any, Any, object]) -> None:
    """Does work that must not be left half done: one who is cancelled meanwhile hears of it when it has ended."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    task.result()
