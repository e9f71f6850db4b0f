"""What became of a batch, as statements for a database; which database it is does not matter here.

A record that was there is written as the columns in which it differs: an index over others is not touched. Where rows
are written together, so are the columns: PostgreSQL compares their values before it touches an index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from poolkeeper_server.domain import records as r
from poolkeeper_server.domain.ledger import seal
from poolkeeper_server.domain.records import KEY_FIELDS
from poolkeeper_server.domain.state import State
from poolkeeper_server.storage.schema import ROWS


@dataclass(frozen=True, slots=True)
class Put:
    """Rows of a kind with all of their columns, which are stored whether they are there or not."""

    kind: type


@dataclass(frozen=True, slots=True)
class Append:
    """Rows of a kind with all of their columns, of which none is there."""

    kind: type


@dataclass(frozen=True, slots=True)
class Change:
    """Rows of a kind that are there: the new values of some columns, and after them the key."""

    kind: type
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Delete:
    """Keys of rows of a kind that are to go."""

    kind: type


Statement = Put | Append | Change | Delete
#: Statements with their rows, which may be carried out in any order: no row is written twice.
Step = list[tuple[Statement, Sequence[Sequence[Any]]]]


def save(state: State, *, joined: bool) -> list[Step]:
    """The steps, one after the other, that write what was changed in a state; there is one at least.

    Rows of a kind that are changed are written by a statement for each set of columns; when `joined`, by a single one
    with all columns in which any of them differs.
    """
    seal(state, orjson.dumps)
    stored, deleted = state.changes()
    rest: Step = [(Delete(kind), keys) for kind, keys in deleted.items()]
    # Of the allocations with one counting key a single one is live: what ends, or gives its key up, is written before
    # what takes its place. None is ever deleted here.
    turns: list[list[tuple[Any, Any]]] = [[], [], []]
    for old, record in stored.pop(r.Allocation, ()):
        turns[2 if old is None else 1 if record.state in r.SEATED else 0].append((old, record))
    for kind, pairs in stored.items():
        rest += _written(kind, pairs, joined=joined)
    if state.entries:
        rest.append((Append(r.Entry), [*map(ROWS[r.Entry].write, state.entries)]))
    steps = [_written(r.Allocation, pairs, joined=joined) for pairs in turns]
    *earlier, last = [step for step in steps if step] or [[]]
    return [*earlier, last + rest]


def _written(kind: type, pairs: Sequence[tuple[Any, Any]], *, joined: bool) -> Step:
    row, keys = ROWS[kind], KEY_FIELDS[kind]
    changed: dict[tuple[str, ...], list[object]] = {}
    new = []
    for old, record in pairs:
        if old is None:
            new.append(row.write(record))
        elif columns := row.differences(old, record):
            changed.setdefault(columns, []).append(record)
    if joined and len(changed) > 1:
        names = set().union(*changed)
        every = tuple(name for name in row.columns if name in names)
        changed = {every: [record for records in changed.values() for record in records]}
    step: Step = [
        (Change(kind, columns), [*map(row.writer((*columns, *keys)), records)]) for columns, records in changed.items()
    ]
    if new:
        step.append((Put(kind), new))
    return step
