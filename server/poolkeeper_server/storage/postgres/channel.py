"""News between the daemons of one database, by NOTIFY on a connection of its own.

Inside the committer's transaction it would halve the rate of commits: PostgreSQL takes a lock of the whole server for
the commit of a transaction that notifies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import asyncpg

from poolkeeper_server.storage.postgres.connection import READER, connect, is_passing
from poolkeeper_server.storage.store import StoreUnavailable

_CHANNEL: Final = "poolkeeper"
#: PostgreSQL takes payloads of less than 8000 bytes.
LONGEST: Final = 7_900
_AGAIN: Final = 1.0


class PostgresChannel:
    """See `Channel` for the contract."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: asyncpg.Connection | None = None
        self._listening: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        self._hear: Callable[[str], None] = lambda _: None

    async def send(self, news: Sequence[str]) -> None:
        """Tells every daemon that listens, this one too; what cannot be told is lost."""
        fitting = [one for one in news if len(one.encode()) <= LONGEST]
        if not fitting:
            return
        async with self._turn:
            connection = self._connection
            if connection is None or connection.is_closed():
                return
            try:
                await connection.execute(
                    f"SELECT pg_notify('{_CHANNEL}', news) FROM unnest($1::text[]) AS news", fitting
                )
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
                connection.terminate()

    async def listen(self, hear: Callable[[str], None]) -> None:
        """Has `hear` called with what is told from now on; the connection comes back by itself."""
        self._hear = hear
        try:
            await self._open()
        except Exception as error:
            if not is_passing(error):
                raise
            raise StoreUnavailable(str(error) or type(error).__name__) from error
        self._listening = asyncio.create_task(self._keep(), name="channel")

    async def close(self) -> None:
        """Closes the connection."""
        if self._listening is not None:
            self._listening.cancel()
            with suppress(asyncio.CancelledError):
                await self._listening
        if self._connection is not None:
            self._connection.terminate()

    async def _open(self) -> None:
        connection = await connect(self._url, READER)
        await connection.add_listener(_CHANNEL, lambda _connection, _pid, _channel, payload: self._hear(str(payload)))
        self._connection = connection

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_AGAIN)
            if self._connection is not None and not self._connection.is_closed():
                continue
            try:
                await self._open()
            except Exception as error:
                if not is_passing(error):
                    raise
