"""The records of an installation in dictionaries, which answer the questions that a store's loading asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from heapq import heappop, heappush
from typing import Any, Final

from poolkeeper_server.domain import records as r
from poolkeeper_server.domain.records import KEY_FIELDS, Key
from poolkeeper_server.domain.state import State
from poolkeeper_server.storage.loading import STATEMENTS, ByKeys, Query, Rows, Statement
from poolkeeper_server.storage.schema import ROWS

Row = tuple[Any, ...]

#: Asked for once a second by each daemon.
_DUE_SESSIONS: Final = next(
    one for one in STATEMENTS if isinstance(one, Query) and "FROM sessions" in one.text and "ORDER BY" in one.text
)
_STATE: Final = ROWS[r.Session].columns.index("state")
_EXPIRES: Final = ROWS[r.Session].columns.index("expires_lease")
_ALLOCATION_STATE: Final = ROWS[r.Allocation].columns.index("state")
_SHARED: Final = ROWS[r.Allocation].columns.index("shared")


def _taking_seats(row: Row) -> bool:
    return bool(row[_SHARED]) and row[_ALLOCATION_STATE] not in {"ENDED", "QUARANTINED"}


def _in_quarantine(row: Row) -> bool:
    return bool(row[_ALLOCATION_STATE] == "QUARANTINED")


#: What rows of a group a question wants, by the words in which it says so.
_WANTED: Final[dict[str, Callable[[Row], bool]]] = {
    "": lambda _: True,
    "t.shared AND t.state NOT IN ('ENDED', 'QUARANTINED')": _taking_seats,
    "t.state = 'QUARANTINED'": _in_quarantine,
}
#: By which columns there are groups of a kind.
_GROUPED: Final[dict[type, tuple[tuple[str, ...], ...]]] = {
    r.Binding: (("estate_id", "node_id"),),
    r.Holding: (("estate_id", "pool_id"),),
    r.Use: (("estate_id", "allocation_id"), ("estate_id", "node_id", "session_id")),
    r.Allocation: (("estate_id", "product_id", "counting_key"),),
}


class Tables:
    """Rows by kind and key.

    Nobody waits here, nothing is revoked and no pool has a quarantine, so what is asked about these finds nothing.
    """

    def __init__(self) -> None:
        self._rows: dict[type, dict[Key, Row]] = {kind: {} for kind in ROWS}
        self._groups: dict[tuple[type, tuple[str, ...]], dict[Key, tuple[Key, ...]]] = {
            (kind, columns): {} for kind, several in _GROUPED.items() for columns in several
        }
        self._places = {
            (kind, columns): tuple(ROWS[kind].columns.index(column) for column in columns)
            for kind, columns in self._groups
        }
        #: Sessions by when they may be due at the earliest. One that was renewed since goes back when it is looked at.
        self._due: list[tuple[int, Key]] = []

    def count(self, kind: type) -> int:
        """How many rows of a kind there are."""
        return len(self._rows[kind])

    def record(self, kind: type, *key: object) -> Any:
        """The record with that key; it must be there."""
        return ROWS[kind].read(self._rows[kind][key])

    def store(self, kind: type, records: Iterable[Any]) -> None:
        """Adds or replaces records of one kind."""
        rows, write, key_of = self._rows[kind], ROWS[kind].write, _KEYS.key_of
        for record in records:
            key, row = key_of(record), write(record)
            if key not in rows:
                self._add(kind, key, row)
            rows[key] = row

    def delete(self, kind: type, keys: Iterable[Key]) -> None:
        """Takes rows away; those that are not there are gone already."""
        for key in keys:
            row = self._rows[kind].pop(key, None)
            if row is None:
                continue
            for columns in _GROUPED.get(kind, ()):
                group = self._groups[kind, columns]
                value = tuple(row[place] for place in self._places[kind, columns])
                rest = tuple(other for other in group[value] if other != key)
                if rest:
                    group[value] = rest
                else:
                    del group[value]

    def _add(self, kind: type, key: Key, row: Row) -> None:
        # No column of a group ever changes, so a row stays in the groups that it is put into here.
        for columns in _GROUPED.get(kind, ()):
            group = self._groups[kind, columns]
            value = tuple(row[place] for place in self._places[kind, columns])
            group[value] = (*group.get(value, ()), key)
        if kind is r.Session:
            heappush(self._due, (row[_EXPIRES], key))

    def answer(self, statement: Statement, parameters: Sequence[Any]) -> Rows:
        """The rows that a database would give."""
        if isinstance(statement, ByKeys):
            return self._by_keys(statement, parameters)
        if statement is _DUE_SESSIONS:
            return self._due_sessions(*parameters)
        return ()

    def _by_keys(self, statement: ByKeys, keys: Sequence[Key]) -> list[Row]:
        kind = statement.kind
        rows = self._rows[kind]
        if not rows:
            return []
        if statement.through is not None:
            outer = ByKeys(statement.through, statement.columns, statement.where)
            places = [ROWS[outer.kind].columns.index(column) for column in KEY_FIELDS[kind]]
            return [rows[tuple(row[place] for place in places)] for row in self._by_keys(outer, keys)]
        if statement.columns == KEY_FIELDS[kind] and not statement.where:
            return [rows[key] for key in keys if key in rows]
        group, wanted = self._groups[kind, statement.columns], _WANTED[statement.where]
        return [rows[found] for key in keys for found in group.get(key, ()) if wanted(rows[found])]

    def _due_sessions(self, lease: int, most: int) -> list[Row]:
        found: list[Row] = []
        rows, due = self._rows[r.Session], self._due
        while due and due[0][0] <= lease and len(found) < most:
            at, key = heappop(due)
            row = rows[key]
            if row[_STATE] == "ENDED":
                continue
            # Put back also when it is about to be ended: the transaction may yet fail.
            heappush(due, (max(row[_EXPIRES], at + 1), key))
            if row[_EXPIRES] <= lease:
                found.append(row)
        return found


#: Knows the key of any record.
_KEYS: Final = State()
