"""Turns of strangers: whose message is read next, address by address, and of each address connection by connection."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from poolkeeper_server.domain.moment import SECOND
from poolkeeper_server.services.limits import reached

#: Turns at a time: of all, of one address, of one connection. So that who opens one connection and is silent on it
#: keeps not even those waiting who share his address.
_AT_ONCE: Final = 32
_OF_SOURCE: Final = 8
_OF_CONNECTION: Final = 2
#: Calls of one address that may wait for their turn.
_MOST_WAITING: Final = 1_024


class _Line:
    """The calls of one connection: how many have a turn, and those that wait for it."""

    __slots__ = ("taken", "waiting")

    def __init__(self) -> None:
        self.taken = 0
        self.waiting: deque[asyncio.Future[None]] = deque()

    @property
    def is_next(self) -> bool:
        """Whether one of them could have a turn."""
        return bool(self.waiting) and self.taken < _OF_CONNECTION


class _Source:
    """The connections of one address, in the order in which they are looked at."""

    __slots__ = ("lines", "taken", "waiting")

    def __init__(self) -> None:
        self.taken = 0
        self.waiting = 0
        self.lines: dict[str, _Line] = {}

    @property
    def is_next(self) -> bool:
        """Whether one of its calls could have a turn."""
        return self.waiting > 0 and self.taken < _OF_SOURCE and self.line is not None

    @property
    def line(self) -> _Line | None:
        """The connection that is next. Those that have as many turns as they may stand before it at most."""
        return next((line for line in self.lines.values() if line.is_next), None)


class Turns:
    """Gives turns in such an order that nobody with many calls keeps others from having one."""

    def __init__(self) -> None:
        self._taken = 0
        self._sources: dict[str, _Source] = {}

    @asynccontextmanager
    async def turn(self, address: str, connection: str) -> AsyncIterator[None]:
        """A turn, when it has come. Raises Refusal when too many calls of the address wait."""
        source = self._sources.setdefault(address, _Source())
        if source.waiting >= _MOST_WAITING:
            raise reached("turns", "Too many calls from this address wait for their turn.", retry_after=SECOND)
        line = source.lines.setdefault(connection, _Line())
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line.waiting.append(turn)
        source.waiting += 1
        self._go_on(source)
        try:
            await turn
            yield
        finally:
            if turn.done() and not turn.cancelled():
                self._taken -= 1
                source.taken -= 1
                line.taken -= 1
            else:
                with suppress(ValueError):
                    line.waiting.remove(turn)
                    source.waiting -= 1
            # Who has had a turn goes to the end of the line.
            self._sources[address] = self._sources.pop(address)
            source.lines[connection] = source.lines.pop(connection)
            if not line.waiting and not line.taken:
                del source.lines[connection]
            if not source.lines:
                del self._sources[address]
            self._next()

    def _next(self) -> None:
        # Addresses with as many turns as they may have stand before it, which are few.
        source = next((source for source in self._sources.values() if source.is_next), None)
        if source is not None:
            self._go_on(source)

    def _go_on(self, source: _Source) -> None:
        while self._taken < _AT_ONCE and source.taken < _OF_SOURCE and (line := source.line) is not None:
            turn = line.waiting.popleft()
            source.waiting -= 1
            if not turn.cancelled():
                self._taken += 1
                source.taken += 1
                line.taken += 1
                turn.set_result(None)
