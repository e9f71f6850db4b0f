"""What the services ask of a store, whichever database it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from poolkeeper_server.domain.commands import Answer, Command
from poolkeeper_server.domain.moment import Moment
from poolkeeper_server.domain.records import Alert, Key, Waiter


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """How far the clocks had come at a commit: lease and civil time, and the host's boot with the time since it."""

    epoch: int
    lease: int
    civil: int
    boot_id: str
    boot_time: int


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


class Time(Protocol):
    """The clock as a transaction needs it."""

    def moment(self) -> Moment:
        """The instant at which the batch is decided; asked for when the locks are held."""

    def mark(self, now: Moment) -> Mark:
        """What is written beside the batch."""

    def committed(self, now: Moment) -> None:
        """Told after the commit: lease time has come so far."""


class Store(Protocol):
    """Transactions of the committer.

    `transact` carries out a batch in one transaction and returns after it is on disk. It raises StoreUnavailable when
    that failed; then nothing of the batch has happened, unless `unknown`. Any other exception is a fault in a command,
    and nothing of the batch has happened.
    """

    async def transact(self, batch: Sequence[Command], time: Time, ids: Callable[[], Iterator[str]]) -> Committed:
        """Loads, decides, writes, commits."""

    async def sight(self, seen: Sequence[tuple[str, str, int]]) -> None:
        """Keeps when nodes (estate, node, civil instant) were last seen."""

    async def purge(self, before: int, most: int) -> int:
        """Deletes what ended before that civil instant and is kept for nothing; gives how many rows."""

    async def close(self) -> None:
        """Lets go of the database."""
