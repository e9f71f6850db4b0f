"""What waits for the committer: who is let in, who is turned away, and who goes first.

The committer and the simulation of a million clients (tests/bench/growth) share it.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

from poolkeeper_server.domain.commands import (
    Acknowledge,
    AddCheckpoint,
    CancelWait,
    CheckIn,
    CloseSession,
    Command,
    Enrol,
    Expire,
    Heartbeat,
    OpenSession,
    RaiseAlert,
    Request,
    ServeQueues,
)
from poolkeeper_server.domain.moment import SECOND
from poolkeeper_server.domain.refusal import Reason, Refusal

T = TypeVar("T")

#: Who asks for something: an estate, and a node, an admin or an address.
Sender = tuple[str, str] | None

#: Commands that end or keep something, for which room is held back when the queue is full (CC-31).
RESERVED = (Heartbeat, CheckIn, CloseSession, Acknowledge, CancelWait)
#: What the daemon asks of itself; there is always room for it.
OWN = (Expire, ServeQueues, RaiseAlert, AddCheckpoint)
#: Of these, what goes first. Giving up a wait must not overtake the check-out that it is about.
FIRST = (Heartbeat, CheckIn, CloseSession, Acknowledge, Expire)


def sender_of(command: Command) -> Sender:
    """The estate of whoever asks, and who it is in it; strangers are of none. The daemon's own has no sender."""
    if isinstance(command, Request):
        return (command.estate_id, command.caller)
    if isinstance(command, Heartbeat | Acknowledge | CloseSession):
        return (command.estate_id, command.session_id)
    if isinstance(command, CancelWait | OpenSession):
        return (command.estate_id, command.node_id)
    return ("", command.source) if isinstance(command, Enrol) else None


def overloaded() -> Refusal:
    """What is told while there is no room."""
    return Refusal(Reason.OVERLOADED, "Too many requests wait already.", retry_after=SECOND // 2)


class Backlog(Generic[T]):
    """Two queues of what waits, each in the order in which it came; the urgent one goes first."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._urgent: deque[T] = deque()
        self._queue: deque[T] = deque()

    def __len__(self) -> int:
        return len(self._urgent) + len(self._queue)

    def require_room(self, command: Command) -> None:
        """Raises Refusal, OVERLOADED, when there is no room for a command of this kind."""
        room = self._bound if isinstance(command, RESERVED) else self._bound - self._bound // 4
        if len(self) >= room and not isinstance(command, OWN):
            raise overloaded()

    def add(self, command: Command, waiting: T) -> None:
        """Lets it in."""
        (self._urgent if isinstance(command, FIRST) else self._queue).append(waiting)

    def pop(self) -> T | None:
        """The next one, or None."""
        if self._urgent:
            return self._urgent.popleft()
        return self._queue.popleft() if self._queue else None
