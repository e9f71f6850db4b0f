"""How a client goes: in order, when its program has forgotten it, and when the program ends.

Nothing here refers to the client itself, or its own heartbeat would keep it alive.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import logging
import os
from typing import Final

from poolkeeper._session import Session
from poolkeeper._tasks import Tasks
from poolkeeper.errors import PoolkeeperError
from poolkeeper.v1 import licensing_pb2 as pb

CLOSE_PATIENCE: Final = 3.0
"""Seconds for which a daemon is asked to end a session."""
_EXIT_PATIENCE: Final = 4.0
_log = logging.getLogger("poolkeeper")


class Farewell:
    """Gives back what a client's session leased, once, whichever way it comes to that."""

    def __init__(self, tasks: Tasks) -> None:
        """Nothing is open yet."""
        self.session: Session | None = None
        """The one that was opened last."""
        self.begun = False
        """Whether the client is closed, or about to be."""
        self._tasks = tasks
        self._process = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._done = False
        self._closing: asyncio.Task[None] | None = None

    def opened(self, session: Session) -> None:
        """From now on there is something to give back; must be called within the running loop of the client."""
        self.session = session
        if self._loop is None and not self.begun:
            self._loop = asyncio.get_running_loop()
            self._tasks.start(self._stand_by(), name="farewell")
            _open.add(self)

    async def close(self, *, patience: float = CLOSE_PATIENCE) -> None:
        """Ends the session, and all that goes on for it; a daemon is asked for `patience` seconds at most."""
        if self.begun:
            return
        self.begun = True
        session = self.session
        try:
            if session is not None:
                await session.close(patience=patience)
            self._done = True
        finally:
            try:
                await self._tasks.stop()
            finally:
                _open.discard(self)
                if session is not None:
                    await session.drop_links()

    def forgotten(self) -> bool:
        """Nobody can close the client any more: it closes by itself. False when there is nothing to give back.

        May be called in any thread, at any moment; waits for nothing.
        """
        if self.begun or self._loop is None or self._process != os.getpid():
            return False
        # Where the loop has ended, no heartbeat goes out any more, and the program's end gives back.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._begin)
        return True

    def leave(self) -> None:
        """The program ends; takes a few seconds at most."""
        if self._process != os.getpid() or self._loop is None:
            return
        if self._loop.is_running():
            closing = asyncio.run_coroutine_threadsafe(self.close(), self._loop)
            with contextlib.suppress(PoolkeeperError, concurrent.futures.TimeoutError):
                closing.result(_EXIT_PATIENCE)
        else:
            asyncio.run(self._say())

    def _begin(self) -> None:
        self._closing = asyncio.ensure_future(self.close())

    async def _stand_by(self) -> None:
        """Waits until all tasks are cancelled, as at the end of `asyncio.run`; then what is open is given back."""
        try:
            await asyncio.Event().wait()
        finally:
            if not self._done:
                await self._say()

    async def _say(self) -> None:
        self.begun = self._done = True
        _open.discard(self)
        if self.session is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_PATIENCE):
                    await self.session.say(pb.CloseSessionRequest())


_open: Final[set[Farewell]] = set()


@atexit.register
def _leave_all() -> None:
    for farewell in list(_open):
        try:
            farewell.leave()
        except Exception:  # noqa: BLE001 - whatever is wrong with one, the others are given back.
            _log.debug("what a client held was not given back at the program's end", exc_info=True)
