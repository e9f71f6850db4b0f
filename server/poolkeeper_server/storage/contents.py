"""What a snapshot of a store holds, as its proof asks for it."""

from __future__ import annotations

from typing import Final, TypeVar

from poolkeeper_server.domain.records import SEATED, Allocation, Checkpoint, Entry, Holding, Pool
from poolkeeper_server.storage.copying import CHUNK, Snapshot
from poolkeeper_server.storage.schema import NAMES, ROWS

R = TypeVar("R")

#: How many of one kind of oddity are named.
_NAMED: Final = 20
_SEATED: Final = ", ".join(f"'{state}'" for state in sorted(SEATED))
_ALLOCATION_OF_USE: Final = "u.estate_id = a.estate_id AND u.allocation_id = a.allocation_id"

#: What the tables must be to one another: a sentence, and the query that finds what is not so.
_ODDITIES: Final = (
    (
        "the use of allocation {0}/{1} by {2} belongs to no allocation that holds seats",
        (
            "SELECT u.estate_id, u.allocation_id, u.holder FROM uses AS u "
            f"LEFT JOIN allocations AS a ON {_ALLOCATION_OF_USE} AND a.state IN ({_SEATED}) "
            "WHERE a.allocation_id IS NULL"
        ),
    ),
    (
        "allocation {0}/{1} holds seats, and nobody uses it",
        (
            f"SELECT a.estate_id, a.allocation_id FROM allocations AS a WHERE a.state IN ({_SEATED}) "
            f"AND NOT EXISTS (SELECT 1 FROM uses AS u WHERE {_ALLOCATION_OF_USE})"
        ),
    ),
    (
        "allocation {0}/{1} is leased in session {2}, which has ended or is not there",
        (
            "SELECT u.estate_id, u.allocation_id, u.session_id FROM allocations AS a "
            f"JOIN uses AS u ON {_ALLOCATION_OF_USE} LEFT JOIN sessions AS s "
            "ON s.estate_id = u.estate_id AND s.session_id = u.session_id AND s.state <> 'ENDED' "
            f"WHERE a.kind = 'LEASED' AND a.state IN ({_SEATED}) AND s.session_id IS NULL"
        ),
    ),
    (
        "session {0}/{1} counts {2} allocations and has {3}",
        (
            'SELECT s.estate_id, s.session_id, s."count", count(a.allocation_id) FROM sessions AS s '
            "LEFT JOIN uses AS u "
            "ON u.estate_id = s.estate_id AND u.node_id = s.node_id AND u.session_id = s.session_id "
            f"LEFT JOIN allocations AS a ON {_ALLOCATION_OF_USE} AND u.quantity > 0 "
            "WHERE s.state <> 'ENDED' GROUP BY s.estate_id, s.session_id, s.\"count\" "
            'HAVING s."count" <> count(a.allocation_id)'
        ),
    ),
    (
        "allocation {0}/{1} is of pool {2}, which is not there",
        (
            "SELECT a.estate_id, a.allocation_id, a.pool_id FROM allocations AS a LEFT JOIN pools AS p "
            "ON p.estate_id = a.estate_id AND p.pool_id = a.pool_id WHERE a.state <> 'ENDED' AND p.pool_id IS NULL"
        ),
    ),
    (
        "a holding of licence {2} is of pool {0}/{1}, which is not there",
        (
            "SELECT h.estate_id, h.pool_id, h.licence_id FROM holdings AS h LEFT JOIN pools AS p "
            "ON p.estate_id = h.estate_id AND p.pool_id = h.pool_id WHERE p.pool_id IS NULL"
        ),
    ),
    (
        "licence {0}/{1} has {2} seats, and pools hold {3} of it",
        (
            'SELECT l.estate_id, l.licence_id, l."count", coalesce(sum(h."count"), 0) FROM licences AS l '
            "LEFT JOIN holdings AS h ON h.estate_id = l.estate_id AND h.licence_id = l.licence_id "
            'GROUP BY l.estate_id, l.licence_id, l."count" HAVING l."count" <> coalesce(sum(h."count"), 0)'
        ),
    ),
    (
        "pool {0}/{1} holds seats of licence {2}, which is not there",
        (
            "SELECT h.estate_id, h.pool_id, h.licence_id FROM holdings AS h LEFT JOIN licences AS l "
            "ON l.estate_id = h.estate_id AND l.licence_id = h.licence_id WHERE l.licence_id IS NULL"
        ),
    ),
    (
        "the queue for {2} in pool {0}/{1} counts {3} that wait, and there are {4}",
        (
            "SELECT q.estate_id, q.pool_id, q.product_id, q.length, count(w.sequence) FROM queues AS q "
            "LEFT JOIN waiters AS w ON w.estate_id = q.estate_id AND w.pool_id = q.pool_id "
            "AND w.product_id = q.product_id GROUP BY q.estate_id, q.pool_id, q.product_id, q.length "
            "HAVING q.length <> count(w.sequence)"
        ),
    ),
    (
        "node {1} of estate {0} is bound to a pool and is not there",
        (
            "SELECT b.estate_id, b.node_id FROM bindings AS b LEFT JOIN nodes AS n "
            "ON n.estate_id = b.estate_id AND n.node_id = b.node_id WHERE n.node_id IS NULL"
        ),
    ),
    (
        "there are ledger entries of pool {0}/{1}, which is not there",
        (
            "SELECT l.estate_id, l.pool_id FROM (SELECT DISTINCT estate_id, pool_id FROM ledger) AS l "
            "LEFT JOIN pools AS p ON p.estate_id = l.estate_id AND p.pool_id = l.pool_id WHERE p.pool_id IS NULL"
        ),
    ),
)


async def secrets_check(snapshot: Snapshot) -> str:
    """The check value of the secrets that the store was used with; empty for one that was never used."""
    rows = await snapshot.all("SELECT secrets_check FROM marks WHERE id = 1")
    return str(rows[0][0]) if rows else ""


async def pools(snapshot: Snapshot) -> list[Pool]:
    """Every pool, by id."""
    return await _records(snapshot, Pool, "ORDER BY estate_id, pool_id")


async def holdings(snapshot: Snapshot) -> list[Holding]:
    """Every holding."""
    return await _records(snapshot, Holding)


async def allocations(snapshot: Snapshot) -> list[Allocation]:
    """Every allocation that holds seats, in use or in quarantine."""
    return await _records(snapshot, Allocation, "WHERE state <> 'ENDED'")


async def checkpoints(snapshot: Snapshot) -> list[Checkpoint]:
    """Every signed checkpoint, in order."""
    return await _records(snapshot, Checkpoint, "ORDER BY estate_id, pool_id, sequence")


async def newest_entry(snapshot: Snapshot, pool: Pool) -> int:
    """The number of the last entry in a pool's ledger; 0 when there is none."""
    ((newest,),) = await snapshot.all(
        "SELECT max(sequence) FROM ledger WHERE estate_id = ? AND pool_id = ?", pool.estate_id, pool.pool_id
    )
    return int(newest or 0)


async def entries(snapshot: Snapshot, pool: Pool, *, after: int) -> list[Entry]:
    """The next entries of a pool's ledger, up to the head that the pool says."""
    return await _records(
        snapshot,
        Entry,
        f"WHERE estate_id = ? AND pool_id = ? AND sequence > ? AND sequence <= ? ORDER BY sequence LIMIT {CHUNK}",
        pool.estate_id,
        pool.pool_id,
        after,
        pool.ledger_sequence,
    )


async def oddities(snapshot: Snapshot) -> list[str]:
    """Where tables do not fit one another, a sentence each."""
    found = []
    for words, query in _ODDITIES:
        odd = await snapshot.all(f"{query} LIMIT {_NAMED + 1}")
        found += [words.format(*row) for row in odd[:_NAMED]]
        if len(odd) > _NAMED:
            found.append("and more of that kind")
    return found


async def _records(snapshot: Snapshot, kind: type[R], rest: str = "", *values: object) -> list[R]:
    columns = ", ".join(f'"{column}"' for column in ROWS[kind].columns)
    read = ROWS[kind].read
    return [read(row) for row in await snapshot.all(f"SELECT {columns} FROM {NAMES[kind]} {rest}", *values)]
