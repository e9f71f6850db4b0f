"""The daemon as it would be if its transactions took no time: a bound for everything that is done beside them.

`python -m tests.bench.unstored serve …` is the daemon itself. But of check-outs, check-ins and heartbeats only the
first of each kind is decided and stored; all others are answered with what that one was, at once. They are received,
authenticated, made into commands and queued, and their answers made and sent, as always.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from poolkeeper.cli import main
from poolkeeper_server.domain.commands import Answer, CheckIn, CheckOut, Heartbeat
from poolkeeper_server.domain.refusal import Refusal
from poolkeeper_server.storage import embedded
from poolkeeper_server.storage.sqlite import SqliteStore
from poolkeeper_server.storage.store import Committed, Take, Time

_REPEATED: Final = (CheckOut, CheckIn, Heartbeat)


class Unstored(SqliteStore):
    """The embedded store, which stores only what it has no answer to yet."""

    def __init__(self, path: Path, time: Time) -> None:
        super().__init__(path, time)
        self._known: dict[type, Answer] = {}
        self._last: Committed | None = None

    async def transact(self, take: Take, ids: Callable[[], Iterator[str]]) -> Committed:
        """Answers a batch, most of which it only pretends to have stored."""
        batch = take()
        new = [command for command in batch if type(command) not in self._known]
        if new or self._last is None:
            committed = await super().transact(lambda: new, ids)
            self._last = replace(committed, answers=(), told=(), served=(), more=(), faults=(), alerts=())
        else:
            committed = self._last
        decided = iter(committed.answers)
        answers = [next(decided) if type(one) not in self._known else self._known[type(one)] for one in batch]
        for command, answer in zip(batch, answers, strict=True):
            if isinstance(command, _REPEATED) and not isinstance(answer, Refusal):
                self._known[type(command)] = answer
        return replace(committed, answers=tuple(answers))


if __name__ == "__main__":
    embedded.SqliteStore = Unstored  # type: ignore[attr-defined] # It takes the store's place in this process alone.
    sys.exit(main())
