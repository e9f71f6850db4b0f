"""What PostgreSQL's planner believes of the tables."""

from __future__ import annotations

from typing import Any, Final

import asyncpg
from sqlalchemy import BigInteger, Boolean, Column, LargeBinary, Table

from poolkeeper_server.storage.schema import metadata, quoted

_ROWS: Final = 4_000
#: How many different values these columns have among so many rows; others have as many as there are rows.
_DIFFERENT: Final = {
    "estate_id": 2,
    "scope": 3,
    "pool_id": 20,
    "product_id": 20,
    "licensed_by": 2,
    "domain": 2,
    "node_id": 400,
    "caller": 400,
}
#: Values that conditions of indexes are about.
_NAMED: Final = {
    "state": "(ARRAY['ENDED', 'ACTIVE', 'QUARANTINED', 'OPEN', 'ISSUED'])[g % 5 + 1]",
    "kind": "(ARRAY['LEASED', 'INSTALLED'])[g / 7 % 2 + 1]",
}
#: Rows of a page are left free for new versions of the others: their columns without an index change all the time.
_CHANGING: Final = ("holdings", "marks", "pools", "queues")


async def guide_planner(connection: asyncpg.Connection) -> None:
    """Gives the planner figures of a large installation, once and for all.

    What it measures on a young database says that nothing needs an index, and a plan made then would be in use while
    the database grows. So it measures made-up rows, which are gone again before anybody sees them; and what it knows
    then is measured no more. `EXPLAIN` in the tests holds the plans.
    """
    for table in metadata.sorted_tables:
        columns = quoted(column.name for column in table.columns)
        values = ", ".join(_value(table, column) for column in table.columns)
        await connection.execute(
            f"INSERT INTO {table.name} ({columns}) SELECT {values} FROM generate_series(1, {_ROWS}) AS g "
            "ON CONFLICT DO NOTHING"
        )
        await connection.execute(f"ANALYZE {table.name}")
        await connection.execute(f"TRUNCATE {table.name}")
        room = ", fillfactor = 50" if table.name in _CHANGING else ""
        await connection.execute(
            f"ALTER TABLE {table.name} SET (autovacuum_analyze_threshold = 2147483647, "
            f"autovacuum_analyze_scale_factor = 100{room})"
        )


def _value(table: Table, column: Column[Any]) -> str:
    """An expression over g, the number of the row."""
    if column.name in _NAMED:
        return _NAMED[column.name]
    if isinstance(column.type, Boolean):
        return "g % 2 = 0"
    if isinstance(column.type, BigInteger):
        return "g" if not column.nullable else "CASE WHEN g % 10 = 0 THEN g END"
    if isinstance(column.type, LargeBinary):
        return "decode(md5(g::text), 'hex')"
    count = _DIFFERENT.get(column.name, _ROWS)
    # What is the whole of a key must differ from row to row.
    if [key.name for key in table.primary_key.columns] == [column.name]:
        count = _ROWS
    return f"md5((g % {count})::text)"
