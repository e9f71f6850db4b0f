"""What waits for the committer: who is let in, who is turned away, and who goes first.

The committer and the simulation of a million clients (tests/bench/growth) share it.
"""

from __future__ import annotations

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
from poolkeeper_server.services.lanes import Lanes, Sender

T = TypeVar("T")

#: The daemon itself.
OWN_SENDER: Sender = ("", "")
#: They share their turns as if they were an estate of their own, whose name none has.
_STRANGERS = "?"
#: How many names of allocations take as long as a check-out.
_NAMES_A_TURN = 64

#: Commands that end or keep something, for which room is held back when the queue is full (CC-31).
RESERVED = (Heartbeat, CheckIn, CloseSession, Acknowledge, CancelWait)
#: What the daemon asks of itself; there is always room for it.
OWN = (Expire, ServeQueues, RaiseAlert, AddCheckpoint)
#: Of these, what goes first. Giving up a wait must not overtake the check-out that it is about.
FIRST = (Heartbeat, CheckIn, CloseSession, Acknowledge, Expire)


def sender_of(command: Command) -> Sender:
    """The estate of whoever asks, and who it is in it; strangers are of none."""
    if isinstance(command, Request):
        return (command.estate_id, command.caller)
    if isinstance(command, Heartbeat | Acknowledge | CloseSession):
        return (command.estate_id, command.node_id or command.session_id)
    if isinstance(command, CancelWait | OpenSession):
        return (command.estate_id, command.node_id)
    return (_STRANGERS, command.source) if isinstance(command, Enrol) else OWN_SENDER


def cost_of(command: Heartbeat) -> int:
    """How many turns it takes: one, as nearly everything does, and more when it names thousands of allocations."""
    known = command.known
    return 1 if known is None else 1 + (len(known.allocations) + len(known.receipts)) // _NAMES_A_TURN


def overloaded() -> Refusal:
    """What is told while there is no room."""
    return Refusal(Reason.OVERLOADED, "Too many requests wait already.", retry_after=SECOND // 2)


class Backlog(Generic[T]):
    """What waits, the urgent first, and of equal urgency by turns, so that nobody waits for one who sends much."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._urgent: Lanes[T] = Lanes()
        self._others: Lanes[T] = Lanes()

    def __len__(self) -> int:
        return self._urgent.count + self._others.count

    def let_in(self, command: Command, waiting: T) -> T | None:
        """Lets it in; gives what has to go for it, if the queue is full of what others have sent.

        Raises Refusal, OVERLOADED, when there is no room for a command of this kind, and nobody has taken more of it.
        """
        sender = sender_of(command)
        lanes = self._urgent if isinstance(command, FIRST) else self._others
        room = self._bound if isinstance(command, RESERVED) else self._bound - self._bound // 4
        pushed = None
        if self._urgent.count + self._others.count >= room and sender is not OWN_SENDER:
            pushed = self._others.push_out(sender)
            if pushed is None and isinstance(command, RESERVED):
                pushed = self._urgent.push_out(sender)
            if pushed is None:
                raise overloaded()
        lanes.add(sender, waiting, cost_of(command) if isinstance(command, Heartbeat) else 1)
        return pushed

    def pop(self) -> tuple[Sender, int, T] | None:
        """The next one, with its sender and its cost; None when there is none."""
        if self._urgent.count:
            return self._urgent.pop()
        return self._others.pop() if self._others.count else None
