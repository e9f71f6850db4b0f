"""Copying a store: every table of one database into another one, as they were at one instant.

A backup, a restore and a move between SQLite and PostgreSQL are this one operation. What is copied into is a draft:
it takes its place only when it is whole.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Protocol

from poolkeeper_server.storage.failpoint import failpoint

Rows = list[tuple[Any, ...]]
#: Told how much of how much is done.
Told = Callable[[int, int], None]
#: Rows that are read, and written, together.
CHUNK: Final = 2_000


class Snapshot(Protocol):
    """A database as it was at one instant. Its methods raise StoreUnusable when it cannot be read."""

    @property
    def name(self) -> str:
        """Where it is, for people to read."""

    @property
    def version(self) -> str:
        """The version of its schema."""

    async def all(self, statement: str, *values: object) -> Rows:
        """What it says to a query, whose values stand as question marks."""

    def rows(self, table: str, columns: Sequence[str]) -> AsyncIterator[Rows]:
        """A whole table, so many rows at a time."""

    async def faults(self) -> list[str]:
        """What the database itself finds wrong with how it keeps the data."""

    async def settle(self) -> None:
        """Lets go of the instant: from now on only what never changes may be asked for. Nothing is held up then."""


class Source(Protocol):
    """A database that can be copied."""

    @property
    def name(self) -> str:
        """Where it is, for people to read."""

    def snapshot(self) -> AbstractAsyncContextManager[Snapshot]:
        """The database as it is now."""

    async def retire(self, to: str) -> None:
        """Has no daemon start on it again, which would give the seats a second time that were moved to there."""


class Draft(Protocol):
    """A database in the making."""

    @property
    def name(self) -> str:
        """Where it will be, for people to read."""

    async def fill(self, source: Source, told: Told) -> None:
        """Copies everything, and brings it to the schema of this release."""

    async def renew(self, *, restored: bool, civil: int) -> None:
        """Begins a new epoch in the copy, with which daemons go on; `civil` is what the clock says now.

        `restored` says that it may lack what was answered since it was made, so that its pools must be quiet for a
        while; a store that was moved lacks nothing.
        """

    def snapshot(self) -> AbstractAsyncContextManager[Snapshot]:
        """What it holds so far."""


class Table(Protocol):
    """What rows are written into."""

    async def put(self, table: str, columns: Sequence[str], rows: Rows) -> None:
        """Adds rows."""


def why_renewed(*, restored: bool) -> str:
    """What the alert says of the new epoch."""
    return "The store was restored from a backup." if restored else "The store was moved."


async def copy_rows(source: Snapshot, target: Table, tables: Mapping[str, Sequence[str]], told: Told) -> None:
    """Copies tables, given with their columns, row by row."""
    total = 0
    for table in tables:
        total += int((await source.all(f"SELECT count(*) FROM {table}"))[0][0])
    done = 0
    told(done, total)
    for table, columns in tables.items():
        async for rows in source.rows(table, columns):
            await target.put(table, columns, rows)
            done += len(rows)
            told(done, total)
            failpoint("in_backup")
