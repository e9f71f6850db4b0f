"""What became of a batch, as statements for a database; which database it is does not matter here.

A record that was there is written as the columns in which it differs: an index over others is not touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from poolkeeper_server.domain import records as r
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


def save(state: State) -> Iterator[tuple[Statement, Sequence[Sequence[Any]]]]:
    """The statements that write what was changed in a state, with their rows.

    What ends is written before what takes its place: of the allocations with one counting key a single one is live.
    """
    stored, deleted = state.changes()
    for kind, keys in deleted.items():
        yield Delete(kind), keys
    for kind, pairs in stored.items():
        row, size = ROWS[kind], len(KEY_FIELDS[kind])
        changed: dict[tuple[bool, tuple[int, ...]], list[Sequence[Any]]] = {}
        new = []
        for old, record in pairs:
            if old is None:
                new.append(row.write(record))
                continue
            places = row.differences(old, record)
            if places:
                whole = row.write(record)
                changed.setdefault((_is_live(record), places), []).append(
                    [whole[place] for place in places] + [*whole[:size]]
                )
        for live, places in sorted(changed):
            yield Change(kind, tuple(row.columns[place] for place in places)), changed[live, places]
        if new:
            yield Put(kind), new
    if state.entries:
        yield Append(r.Entry), [ROWS[r.Entry].write(entry) for entry in state.entries]


def _is_live(record: object) -> bool:
    return isinstance(record, r.Allocation) and record.state in r.SEATED
