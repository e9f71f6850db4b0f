"""Read-only queries, apart from the writer: short, paged, and never waiting for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import orjson
from sqlalchemy import Column, ColumnElement, Select, Text, case, exc, func, select, tuple_, union
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from poolkeeper_server.domain import records as r
from poolkeeper_server.domain.refusal import Reason, Refusal, invalid
from poolkeeper_server.storage.schema import MARKS, ROWS, SIGHTINGS, TABLES, to_json

R = TypeVar("R")

#: The most names that one statement asks for.
_MOST_NAMES: Final = 1000

#: A page token has a key, whose longest part is a name of 250 characters.
_LONGEST_TOKEN: Final = 4096

#: What is wrong with a statement or its values, and will be wrong the next time too.
_FAULTS = (exc.ProgrammingError, exc.DataError, exc.IntegrityError, exc.NotSupportedError)


@dataclass(frozen=True, slots=True)
class PoolSums:
    """A pool in numbers: the sequence of its newest ledger entry, and its seats over all lines."""

    estate_id: str
    pool_id: str
    ledger_sequence: int
    total: int
    active: int
    quarantined: int
    available: int


class Reader:
    """Records by key, and pages of them, as they were at one moment not long ago."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def close(self) -> None:
        """Closes the connections."""
        await self._engine.dispose()

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AsyncConnection]:
        try:
            async with self._engine.connect() as connection:
                yield connection
        except _FAULTS:
            raise
        except (exc.DBAPIError, exc.TimeoutError, OSError, TimeoutError) as error:
            raise Refusal(
                Reason.STORE_UNAVAILABLE, "The store cannot be read at the moment.", retry_after=1_000_000
            ) from error

    async def get(self, kind: type[R], *key: object) -> R | None:
        """The record with that key."""
        table = TABLES[kind]
        conditions = [table.c[name] == value for name, value in zip(r.KEY_FIELDS[kind], key, strict=True)]
        found = await self.all(kind, *conditions, most=1)
        return found[0] if found else None

    async def all(self, kind: type[R], *conditions: ColumnElement[bool], most: int | None = None) -> list[R]:
        """The records that meet the conditions, by key."""
        table = TABLES[kind]
        order = [table.c[name] for name in r.KEY_FIELDS[kind]]
        return await self._records(kind, select(table).where(*conditions).order_by(*order).limit(most))

    async def _records(self, kind: type[R], query: Select[Any]) -> list[R]:
        read = ROWS[kind].read
        async with self._connection() as connection:
            rows = (await connection.execute(query)).all()
        # JSON text comes as it is stored; everything else the column types have converted already.
        return [read(tuple(row)) for row in rows]

    async def page(
        self,
        kind: type[R],
        *conditions: ColumnElement[bool],
        size: int,
        token: str,
        order: Sequence[str] = (),
        descending: bool = False,
    ) -> tuple[list[R], str]:
        """At most `size` records after the one that the token names, and the token of the next page.

        Raises:
            Refusal: INVALID_FIELD for a token that no listing gave.
        """
        table = TABLES[kind]
        names = tuple(order) or r.KEY_FIELDS[kind]
        columns = [table.c[name] for name in names]
        query = select(table).where(*conditions)
        if token:
            after = _read_token(token, columns)
            place = tuple_(*columns)
            query = query.where(place < tuple_(*after) if descending else place > tuple_(*after))
        query = query.order_by(*(column.desc() if descending else column for column in columns)).limit(size + 1)
        found = await self._records(kind, query)
        if len(found) <= size:
            return found, ""
        last = found[size - 1]
        return found[:size], to_json([getattr(last, name) for name in names])

    async def count(self, kind: type, *conditions: ColumnElement[bool]) -> int:
        """How many records meet the conditions."""
        query = select(func.count()).select_from(TABLES[kind]).where(*conditions)
        async with self._connection() as connection:
            return int((await connection.execute(query)).scalar_one())

    async def held_by_nodes(
        self, kind: type, nodes: Collection[r.Key], *conditions: ColumnElement[bool]
    ) -> dict[r.Key, int]:
        """How many records that meet the conditions each of these nodes has, by (estate, node); none are left out."""
        table = TABLES[kind]
        owner = (table.c.estate_id, table.c.node_id)
        found: dict[r.Key, int] = {}
        async with self._connection() as connection:
            names = sorted(nodes)
            for first in range(0, len(names), _MOST_NAMES):
                some = tuple_(*owner).in_(names[first : first + _MOST_NAMES])
                query = select(*owner, func.count()).where(some, *conditions).group_by(*owner)
                found |= {(row[0], row[1]): int(row[2]) for row in await connection.execute(query)}
        return found

    async def node_counts(self, estate_id: str, pools: Collection[str]) -> dict[str, int]:
        """How many nodes are bound to each of the pools that has any."""
        table = TABLES[r.Binding]
        query = (
            select(table.c.pool_id, func.count(func.distinct(table.c.node_id)))
            .where(table.c.estate_id == estate_id, table.c.pool_id.in_(pools))
            .group_by(table.c.pool_id)
        )
        async with self._connection() as connection:
            return {row[0]: int(row[1]) for row in await connection.execute(query)}

    async def pool_sums(self) -> list[PoolSums]:
        """Every pool in numbers, as they are stored: what is due is not taken out of them."""
        pools, holdings = TABLES[r.Pool], TABLES[r.Holding]
        free = holdings.c.count - holdings.c.active - holdings.c.quarantined
        # A line may be over after a restore; the others give what they have all the same.
        seats = (holdings.c.count, holdings.c.active, holdings.c.quarantined, case((free > 0, free), else_=0))
        names = (pools.c.estate_id, pools.c.pool_id, pools.c.ledger_sequence)
        query = (
            select(*names, *(func.coalesce(func.sum(number), 0) for number in seats))
            .outerjoin(holdings, (holdings.c.estate_id == pools.c.estate_id) & (holdings.c.pool_id == pools.c.pool_id))
            .group_by(*names)
        )
        async with self._connection() as connection:
            rows = (await connection.execute(query)).all()
        # PostgreSQL adds whole numbers up to decimal ones.
        return [PoolSums(estate_id, pool_id, *map(int, numbers)) for estate_id, pool_id, *numbers in rows]

    async def due_quarantines(self, estate_id: str, pools: Iterable[str], now: int) -> list[r.Allocation]:
        """The quarantines of pools that are over and not yet ended; few, since they are ended every second."""
        table = TABLES[r.Allocation]
        names, found = list(pools), []
        # A database takes so many parameters, and no more. Without the pools no index leads to what is due.
        for first in range(0, len(names), _MOST_NAMES):
            found += await self.all(
                r.Allocation,
                table.c.estate_id == estate_id,
                table.c.pool_id.in_(names[first : first + _MOST_NAMES]),
                table.c.state == "QUARANTINED",
                table.c.quarantine_until <= now,
            )
        return found

    async def node_seats(self, estate_id: str, nodes: Sequence[str]) -> dict[str, int]:
        """How many seats the nodes use."""
        table = TABLES[r.Use]
        query = (
            select(table.c.node_id, func.sum(table.c.quantity))
            .where(table.c.estate_id == estate_id, table.c.node_id.in_(nodes))
            .group_by(table.c.node_id)
        )
        async with self._connection() as connection:
            return {row[0]: int(row[1]) for row in await connection.execute(query)}

    async def sightings(self, estate_id: str, nodes: Sequence[str]) -> dict[str, int]:
        """When the nodes were last seen, as far as it is stored."""
        query = select(SIGHTINGS.c.node_id, SIGHTINGS.c.seen_at).where(
            SIGHTINGS.c.estate_id == estate_id, SIGHTINGS.c.node_id.in_(nodes)
        )
        async with self._connection() as connection:
            return {row[0]: int(row[1]) for row in await connection.execute(query)}

    async def newest_sessions(self, estate_id: str, node_id: str, most: int) -> list[r.Session]:
        """The sessions of a node that were opened last, newest first."""
        table = TABLES[r.Session]
        query = select(table).where(table.c.estate_id == estate_id, table.c.node_id == node_id)
        return await self._records(r.Session, query.order_by(table.c.opened_at.desc()).limit(most))

    async def failed_attempts(self, estate_id: str) -> tuple[int, int | None]:
        """How many enrolments have failed at the pools of an estate, or anywhere where it is empty, and since when."""
        limits = TABLES[r.Limit]
        conditions = [limits.c.scope == "pool", limits.c.attempts > 0]
        if estate_id:
            # The names that begin with it and a slash.
            conditions += [limits.c.subject > f"{estate_id}/", limits.c.subject < f"{estate_id}0"]
        query = select(func.coalesce(func.sum(limits.c.attempts), 0), func.min(limits.c.first_at)).where(*conditions)
        async with self._connection() as connection:
            attempts, since = (await connection.execute(query)).one()
        return int(attempts), None if since is None else int(since)

    async def mark(self) -> tuple[int, int]:
        """Epoch and lease time of the newest commit."""
        async with self._connection() as connection:
            row = (await connection.execute(select(MARKS.c.epoch, MARKS.c.lease))).one()
        return int(row[0]), int(row[1])

    async def quiet_until(self) -> int:
        """The lease time until which any pool gives no seat, since its state was restored; 0 where none was."""
        query = select(func.coalesce(func.max(TABLES[r.Pool].c.quiet_until_lease), 0))
        async with self._connection() as connection:
            return int((await connection.execute(query)).scalar_one())

    async def head(self, estate_id: str, pool_id: str) -> tuple[r.Pool, list[r.Holding]] | None:
        """A pool and its holdings, read at one moment."""
        pools, holdings = TABLES[r.Pool], TABLES[r.Holding]
        # One statement sees one state, on a connection that begins no transactions.
        query = (
            select(pools, holdings)
            .outerjoin(holdings, (holdings.c.estate_id == pools.c.estate_id) & (holdings.c.pool_id == pools.c.pool_id))
            .where(pools.c.estate_id == estate_id, pools.c.pool_id == pool_id)
            .order_by(holdings.c.licence_id)
        )
        async with self._connection() as connection:
            rows = [tuple(row) for row in await connection.execute(query)]
        if not rows:
            return None
        width = len(pools.columns)
        lines = [row[width:] for row in rows if row[width] is not None]
        return ROWS[r.Pool].read(rows[0][:width]), [ROWS[r.Holding].read(line) for line in lines]


def of_node(estate_id: str, node_id: str) -> ColumnElement[bool]:
    """The condition that an allocation is used by the node, or is one that it left in quarantine."""
    uses, own = TABLES[r.Use], TABLES[r.Allocation].alias()
    used = select(uses.c.allocation_id).where(uses.c.estate_id == estate_id, uses.c.node_id == node_id)
    left = select(own.c.allocation_id).where(
        own.c.estate_id == estate_id, own.c.node_id == node_id, own.c.state == "QUARANTINED"
    )
    return TABLES[r.Allocation].c.allocation_id.in_(union(used, left))


def _read_token(token: str, columns: Sequence[Column[Any]]) -> list[Any]:
    try:
        # It takes no lone surrogates, and gives up on what is nested too deep.
        place = orjson.loads(token) if len(token) <= _LONGEST_TOKEN else None
    except ValueError:
        place = None
    if not isinstance(place, list) or len(place) != len(columns) or not all(map(_fits, place, columns)):
        raise invalid("page_token", "This page token was not given by a listing.", hint="Start without one.")
    return place


def _fits(part: object, column: Column[Any]) -> bool:
    if isinstance(column.type, Text):
        return isinstance(part, str) and "\0" not in part
    return type(part) is int and -(2**63) <= part < 2**63
