"""PostgreSQL, too, finds the rows of every statement by an index, whatever it knows of the tables."""

from __future__ import annotations

import asyncio
import re

from poolkeeper_server.storage.loading import ByKeys
from poolkeeper_server.storage.postgres.connection import WRITER, connect
from poolkeeper_server.storage.postgres.store import LOADS, PURGES, write_statement
from poolkeeper_server.storage.saving import Change, Delete
from poolkeeper_server.storage.schema import ROWS
from tests.postgres import Server

#: Pools that reclaim are looked for among all pools, once a second.
_SMALL = "on pools p"
_WHOLE_ESTATE = re.compile(r"Index Cond: \((estate_id|scope) = [^)]*\)$")


def statements() -> dict[str, str]:
    """What a batch loads, and the changes and ends of each kind that it writes."""
    found = {
        f"{statement.kind.__name__ if isinstance(statement, ByKeys) else 'query'} {place}": text
        for place, (statement, text) in enumerate(LOADS.items())
    }
    for kind, row in ROWS.items():
        found[f"{kind.__name__} deleted"] = write_statement(Delete(kind))
        found[f"{kind.__name__} changed"] = write_statement(Change(kind, row.columns[-1:]))
    return found


async def plans(url: str) -> dict[str, str]:
    connection = await connect(url, WRITER)
    found = {}
    for name, text in statements().items():
        # Never run, only planned, and as for any values.
        count = max((int(number) for number in re.findall(r"\$(\d+)", text)), default=0)
        await connection.execute(f"PREPARE one AS {text}")
        rows = await connection.fetch(f"EXPLAIN EXECUTE one({', '.join(['NULL'] * count)})")
        found[name] = "\n".join(row[0] for row in rows)
        await connection.execute("DEALLOCATE one")
    await connection.close()
    return found


def test_no_statement_of_a_batch_reads_a_whole_table(postgres_server: Server, migrated_template: str) -> None:
    url = postgres_server.new_database(migrated_template)
    found = asyncio.run(plans(url))
    assert len(found) == len(LOADS) + 2 * len(ROWS)
    for name, plan in found.items():
        for line in plan.splitlines():
            assert "Seq Scan" not in line or _SMALL in line, f"{name}:\n{plan}"
            assert "Sort" not in line, f"{name}:\n{plan}"
            assert not _WHOLE_ESTATE.search(line) or name.startswith("Estate"), f"{name}:\n{plan}"
            assert "using allocations_unseen" not in line or "Index Cond" in plan, f"{name}:\n{plan}"


def test_what_is_old_is_found_by_an_index(postgres_server: Server, migrated_template: str) -> None:
    url = postgres_server.new_database(migrated_template)
    name = url.rpartition("/")[2]
    for statement in PURGES:
        plan = postgres_server.sql(
            name, "SET enable_seqscan = off; EXPLAIN " + statement.replace("$1", "1").replace("$2", "1")
        )
        assert "Seq Scan" not in plan, plan
