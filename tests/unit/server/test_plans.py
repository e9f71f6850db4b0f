"""Every statement of the store finds its rows by an index that leads to them, however large the estate is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.dialects.sqlite import dialect

from poolkeeper_server.domain.records import Allocation
from poolkeeper_server.storage import sqlite
from poolkeeper_server.storage.loading import STATEMENTS, ByKeys, Present
from poolkeeper_server.storage.migration import migrate
from poolkeeper_server.storage.reader import of_node
from poolkeeper_server.storage.saving import Change, Delete
from poolkeeper_server.storage.schema import NAMES, ROWS, TABLES

# What looks at every pool, or at the few rows that a partial index holds, once a second.
_SMALL = {"SCAN p"}
# The keys that were asked for.
_KEYS = ("SCAN wanted", "SCAN CONSTANT ROW", "SCAN 8 CONSTANT ROWS", f"SCAN {sqlite.MOST_KEYS} CONSTANT ROWS")
_WHOLE_ESTATE = re.compile(r"\((estate_id|scope)=\?\)$")


def statements() -> dict[str, str]:
    found: dict[str, str] = {}
    for place, statement in enumerate(STATEMENTS):
        name = f"{getattr(statement, 'kind', type(None)).__name__} {place}"
        if isinstance(statement, ByKeys | Present):
            found |= {f"{name} of {size}": sqlite.keyed(statement, size) for size in (1, 8, sqlite.MOST_KEYS)}
        else:
            found[name] = sqlite.LOADS[statement]
    for kind in NAMES:
        found[f"delete {kind.__name__}"] = sqlite.write_statement(Delete(kind))
        column = ROWS[kind].columns[-1]
        found[f"change {kind.__name__}"] = sqlite.write_statement(Change(kind, (column,)))
    return found | {f"purge {place}": text for place, text in enumerate(sqlite.PURGES)}


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path: Path = tmp_path_factory.mktemp("plans") / "store.sqlite"
    migrate(path)
    return sqlite.connect(path)


@pytest.mark.parametrize("name", sorted(statements()))
def test_a_statement_reads_no_more_than_it_needs(connection: Any, name: str) -> None:
    statement = statements()[name]
    count = statement.count("?")
    arguments: Any = [1] * count
    if ":before" in statement:
        arguments = {"before": 1, "most": 1}
    plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", arguments)]
    for step in plan:
        if step in _SMALL or step.startswith(_KEYS) or "Estate" in name:
            continue
        assert not step.startswith("SCAN"), (step, plan)
        assert not _WHOLE_ESTATE.search(step), (step, plan)
        assert "TEMP B-TREE" not in step, (step, plan)


def test_the_allocations_of_a_node_are_listed_without_a_look_at_the_others(connection: Any) -> None:
    table = TABLES[Allocation]
    query = select(table).where(table.c.estate_id == "acme", table.c.state != "ENDED", of_node("acme", "studio-7"))
    text = str(query.compile(dialect=dialect(), compile_kwargs={"literal_binds": True}))
    plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {text}")]
    assert not [step for step in plan if step.startswith("SCAN") or _WHOLE_ESTATE.search(step)], plan
