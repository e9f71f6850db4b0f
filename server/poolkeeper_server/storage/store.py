"""What the services ask of a store, whichever database it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Protocol

from poolkeeper_server.domain.commands import Answer, Command
from poolkeeper_server.domain.moment import Moment
from poolkeeper_server.domain.records import Alert, Key, Token, Waiter
from poolkeeper_server.domain.state import State


class StoreUnavailable(Exception):
    """The transaction did not happen, or nobody knows whether it did (`unknown`); nothing may be answered as done."""

    def __init__(self, message: str, *, unknown: bool = False) -> None:
        super().__init__(message)
        self.unknown = unknown


class StoreUnusable(Exception):
    """The store cannot be opened: of a newer schema, not a database, not to be written. `hint` says what to do."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class StoreUnreachable(StoreUnusable):
    """The store cannot be used now, and may be at another time: nobody answers, its disk is full, others have it."""


class StoreRefused(StoreUnusable):
    """The store could be changed as was asked, and something would be lost by it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """How far the clocks had come at a commit.

    `lease` and `civil` are the installation's; `reference` is what the clock said from which civil time is taken (the
    host's, or the database server's when several daemons share it); `boot_id` and `boot_time` are of the host that
    committed. `frozen` says why civil time is not to be trusted, and is empty while it is.
    """

    epoch: int
    lease: int
    civil: int
    reference: int
    boot_id: str
    boot_time: int
    frozen: str

    @classmethod
    def read(cls, row: Sequence[Any]) -> Mark:
        """The mark in a row of `MARK_FIELDS`."""
        return cls(**dict(zip(MARK_FIELDS, row, strict=True)))

    def write(self) -> tuple[Any, ...]:
        """Its row."""
        return tuple(getattr(self, name) for name in MARK_FIELDS)


#: How the check value of the secrets begins in a store that was moved; where to follows.
MOVED: Final = "moved to "

#: The fields of a mark, as the columns of its table.
MARK_FIELDS: Final = tuple(field.name for field in fields(Mark))
#: Both databases have these words.
READ_MARK: Final = f"SELECT {', '.join(MARK_FIELDS)} FROM marks WHERE id = 1"
#: The same, and the check value of the secrets.
READ_FIRST_MARK: Final = f"SELECT {', '.join(MARK_FIELDS)}, secrets_check FROM marks WHERE id = 1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """What a transaction gave: answers in the order of the commands, and whom else it concerns.

    `told` is news for sessions, `served` waiters with their grant or refusal, `more` pools whose queues can be
    served further, `faults` what is wrong with single records that were left as they are,
    `alerts` those that were raised.
    """

    answers: tuple[Answer, ...]
    told: tuple[tuple[Key, tuple[object, ...]], ...]
    served: tuple[tuple[Waiter, object], ...]
    more: tuple[Key, ...]
    faults: tuple[str, ...]
    alerts: tuple[Alert, ...]
    now: Moment


def committed(state: State, answers: Sequence[Answer], more: tuple[Key, ...], now: Moment) -> Committed:
    """What a transaction gave that left the state like this."""
    return Committed(
        answers=tuple(answers),
        told=tuple(state.told.items()),
        served=tuple(state.served),
        more=more,
        faults=tuple(state.faults),
        alerts=tuple(state.all(Alert)),
        now=now,
    )


class Time(Protocol):
    """The clock as a transaction needs it."""

    def moment(self) -> Moment:
        """The instant at which the batch is decided; asked for when the locks are held."""

    def mark(self, now: Moment) -> Mark:
        """What is written beside the batch."""

    def committed(self, now: Moment) -> None:
        """Told after the commit: lease time has come so far."""


class SharedTime(Protocol):
    """The clock as a transaction needs it that shares its database with other daemons."""

    def ask(self) -> None:
        """Told before the database's clock is read."""

    def moment(self, stored: Mark, told: int) -> Moment:
        """The instant at which the batch is decided, from the newest mark and what the database's clock says now."""

    def mark(self, now: Moment) -> Mark:
        """What is written beside the batch."""

    def committed(self, now: Moment) -> None:
        """Told after the commit: lease time has come so far."""


class Database(Protocol):
    """A database at the start of a daemon, and what works on it afterwards.

    Each of the asynchronous methods raises StoreUnusable when it cannot do what it says, with what to do about it.
    """

    @property
    def name(self) -> str:
        """Where it is, for people to read."""

    async def warnings(self) -> list[str]:
        """What makes it less safe than it should be."""

    async def migrate(self) -> bool:
        """Brings it to the schema of this release; True when there was something to do."""

    async def clock(self) -> int | None:
        """What the clock of its server says, in microseconds UTC; None for a database without a server."""

    async def read_mark(self) -> tuple[Mark, str] | None:
        """The newest mark and the check value of the secrets; None for a new database."""

    async def write_first_mark(self, mark: Mark, secrets_check: str) -> tuple[Mark, str]:
        """Makes a new database the one of these secrets, unless another daemon was first; gives what it is now."""

    async def begin_epoch(self, civil: int, why: str, *, quiet: bool = True) -> int:
        """Begins a new epoch while no daemon is there, with a quiet period unless nothing can be missing."""

    async def record_token(self, token: Token) -> None:
        """Keeps a token as its file has it."""


class Channel(Protocol):
    """News between the daemons of one database. It may be lost; whoever listens looks for itself now and then."""

    async def send(self, news: Sequence[str]) -> None:
        """Tells the other daemons, and this one."""

    async def listen(self, hear: Callable[[str], None]) -> None:
        """Has `hear` called, in the loop, with what is told from now on. Raises StoreUnavailable."""

    async def close(self) -> None:
        """Lets go of the database."""


#: Gives the batch of a transaction.
Take = Callable[[], Sequence[Command]]


class Store(Protocol):
    """Transactions of the committer.

    `transact` carries out a batch in one transaction and returns after it is on disk. It takes the batch once, when it
    is its turn: what has come while it waited for other daemons is carried out as well. It raises StoreUnavailable
    when that failed; then nothing of the batch has happened, unless `unknown`, and the batch may not have been taken.
    Any other exception is a fault in a command, and nothing of the batch has happened.
    """

    async def transact(self, take: Take, ids: Callable[[], Iterator[str]]) -> Committed:
        """Waits for its turn, takes the batch, loads, decides, writes, commits."""

    async def sight(self, seen: Sequence[tuple[str, str, int]]) -> None:
        """Keeps when nodes (estate, node, civil instant) were last seen."""

    async def purge(self, before: int, most: int) -> int:
        """Deletes what ended before that civil instant and is kept for nothing; gives how many rows."""

    async def forget(self, before: int, most: int) -> int:
        """Deletes failures of sources that were before that civil instant; gives how many rows."""

    async def close(self) -> None:
        """Lets go of the database."""
