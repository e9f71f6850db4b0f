"""The daemon as it would be if deciding took no time: a bound for everything that is not the database.

`python -m tests.bench.undecided serve …` is the daemon itself. But of check-outs and check-ins only the first of each
kind is decided. All others ask the database what that one asked, but for what the daemon has in memory in the long
run, and write what it wrote, with ids, sequences and instants of their own, and commit it; they are answered with what
that one was. No record is made of a row.
"""

from __future__ import annotations

import sys
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

from poolkeeper.cli import main
from poolkeeper_server.domain.commands import Answer, CheckIn, CheckOut, Command, Granted
from poolkeeper_server.domain.moment import Moment
from poolkeeper_server.domain.records import KEY_FIELDS, Key
from poolkeeper_server.domain.refusal import Refusal
from poolkeeper_server.domain.state import State
from poolkeeper_server.storage import embedded, saving
from poolkeeper_server.storage.kept import Kept
from poolkeeper_server.storage.loading import ByKeys, Present, Rows, Statement
from poolkeeper_server.storage.schema import ROWS
from poolkeeper_server.storage.sqlite import SqliteStore, write_statement
from poolkeeper_server.storage.store import Time

#: Where in the values of a command each of them is.
_ALLOCATION, _REQUEST, _CALLER, _SESSION, _SEQUENCE, _CIVIL, _PROMISE = range(7)
#: Columns whose values are a command's own; its ids are known by what they are.
_COLUMNS: Final = {
    **dict.fromkeys(("sequence", "ledger_sequence", "fence"), _SEQUENCE),
    **dict.fromkeys(("at", "allocated_at", "ended_at", "renewed_at"), _CIVIL),
    **dict.fromkeys(("promised_lease", "expires_lease", "continued_lease"), _PROMISE),
}
#: Those of which each command has another one; a ledger entry has nothing else of its own.
_UNIQUE: Final = frozenset({_ALLOCATION, _REQUEST})
_DAY: Final = 86_400_000_000
Values = tuple[Any, ...]


class _Template:
    """A row of the first command, and where in it the values of others have their places."""

    def __init__(self, row: Sequence[Any], ids: dict[str, int], columns: Sequence[str] = ()) -> None:
        own = {place: _COLUMNS[name] for place, name in enumerate(columns) if name in _COLUMNS}
        own |= {place: ids[value] for place, value in enumerate(row) if isinstance(value, str) and value in ids}
        self._row = tuple(row)
        # From the row with the values behind it; a first column more, since a getter of one gives no tuple.
        self._get = itemgetter(0, *(len(row) + own[place] if place in own else place for place in range(len(row))))
        self._each = bool(_UNIQUE & set(own.values())) or "sequence" in columns
        self._by = next((value for value in (_SESSION, _CALLER) if value in own.values()), None)

    def rows(self, values: Sequence[Values]) -> list[tuple[Any, ...]]:
        """A row for each of these, or for each of their sessions, or one."""
        if not self._each:
            values = [*{one[self._by]: one for one in values}.values()] if self._by is not None else values[-1:]
        row, get = self._row, self._get
        return [get(row + one)[1:] for one in values]


class _First:
    """What a first command asked and wrote, for others to do the same, and how it was answered."""

    def __init__(
        self,
        answer: Answer,
        asks: Sequence[tuple[Statement, Sequence[Any]]],
        steps: Sequence[saving.Step],
        ids: dict[str, int],
    ) -> None:
        self.answer = answer
        self.questions = [
            (statement, [_Template(key, ids) for key in keys])
            for statement, keys in asks
            if isinstance(statement, ByKeys | Present)
        ]
        self.writes = [
            (write_statement(statement), [_Template(row, ids, _columns(statement)) for row in rows])
            for step in steps
            for statement, rows in step
        ]


def _columns(statement: saving.Statement) -> tuple[str, ...]:
    keys = KEY_FIELDS[statement.kind]
    if isinstance(statement, saving.Delete):
        return keys
    return (*statement.columns, *keys) if isinstance(statement, saving.Change) else ROWS[statement.kind].columns


class _Unlearned(Kept):
    """Remembers nothing: what is written here undecided is in no state that could be learnt."""

    def learn(self, state: State) -> None:
        """Leaves it."""


class Undecided(SqliteStore):
    """The embedded store, which decides only the first check-out and the first check-in."""

    def __init__(self, path: Path, time: Time) -> None:
        super().__init__(path, time)
        self.kept = _Unlearned()
        self._first: dict[type, _First] = {}
        self._asks: list[tuple[Statement, Sequence[Any]]] = []
        #: What sessions have checked out, oldest first.
        self._held: dict[str, deque[str]] = defaultdict(deque)
        #: Beyond what the ledger has of those that were decided.
        self._sequence = 1_000_000

    def _carry_out(
        self, batch: Sequence[Command], now: Moment, ids: Iterator[str]
    ) -> tuple[State, list[Answer], tuple[Key, ...]]:
        """Asks and writes what the first of each kind did, for each of a batch; decides what is of another kind."""
        state, answers = State(), dict[int, Answer]()
        more: tuple[Key, ...] = ()
        kinds: dict[type, list[Values]] = {}
        # What is decided goes first, and finds in the ledger what was written last.
        for place, command in enumerate(batch):
            if type(command) not in self._first:
                state, answers[place], more = self._decided(command, now, ids)
                self._sequence += len(state.entries)
        for place, command in enumerate(batch):
            if place not in answers:
                assert isinstance(command, CheckOut | CheckIn)
                kinds.setdefault(type(command), []).append(self._values(command, now, ids))
                answers[place] = self._first[type(command)].answer
        for kind, values in kinds.items():
            for statement, templates in self._first[kind].questions:
                super()._rows(statement, [key for template in templates for key in template.rows(values)])
        for kind, values in kinds.items():
            for text, templates in self._first[kind].writes:
                self._connection.executemany(text, [row for template in templates for row in template.rows(values)])
        return state, [answers[place] for place in range(len(batch))], more

    def _decided(self, command: Command, now: Moment, ids: Iterator[str]) -> tuple[State, Answer, tuple[Key, ...]]:
        """Carries one command out, and keeps what the first of its kind did."""
        self._asks = []
        state, (answer,), more = super()._carry_out([command], now, ids)
        if isinstance(command, CheckOut) and isinstance(answer, Granted):
            allocation = answer.allocation.allocation_id
        elif isinstance(command, CheckIn) and not isinstance(answer, Refusal):
            allocation = command.allocation_id
        else:
            return state, answer, more
        told = (allocation, command.request_id, command.caller, command.session_id)
        ids_of = {value: place for place, value in enumerate(told)}
        asks = [(statement, keys) for statement, keys in self._asks if self.kept.answers(statement) is None]
        self._first[type(command)] = _First(answer, asks, saving.save(state, joined=False), ids_of)
        return state, answer, more

    def _values(self, command: CheckOut | CheckIn, now: Moment, ids: Iterator[str]) -> Values:
        held = self._held[command.session_id]
        if isinstance(command, CheckOut):
            allocation = next(ids)
            held.append(allocation)
        else:
            allocation = held.popleft() if held else command.allocation_id
        self._sequence += 1
        told = (allocation, command.request_id, command.caller, command.session_id)
        return (*told, self._sequence, now.civil, now.lease + _DAY)

    def _rows(self, statement: Statement, parameters: Sequence[Any]) -> Rows:
        self._asks.append((statement, parameters))
        return super()._rows(statement, parameters)


if __name__ == "__main__":
    embedded.SqliteStore = Undecided  # type: ignore[attr-defined] # It takes the store's place in this process alone.
    sys.exit(main())
