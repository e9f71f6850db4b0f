"""A daemon: what arrives is read in turn, put into the committer's queue or refused, committed in batches, answered.

What comes on streams is read in its order. Calls wait in a line for each method, of which a turn of the loop takes one
each; the daemon's several servers, each with lines of its own, are played as one.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final, Protocol

from poolkeeper_server.domain import commands as c
from poolkeeper_server.domain.moment import SECOND
from poolkeeper_server.domain.refusal import Reason, Refusal
from poolkeeper_server.services.backlog import Backlog
from poolkeeper_server.services.committer import LARGEST_BATCH
from poolkeeper_server.services.housekeeping import AT_ONCE
from tests.bench.growth.clock import Clock
from tests.bench.growth.costs import Cost, Costs
from tests.bench.growth.store import Store
from tests.bench.growth.tally import Tally

_TICK: Final = 1.0


class Caller(Protocol):
    """What a daemon knows of a client."""

    ticket: int
    """Which of its attempts it waits for now; answers to others reach nobody."""

    def answered(self, ticket: int, answer: object) -> None:
        """An answer came; None to what needs no words."""

    def cut_off(self, daemon: Daemon) -> None:
        """A connection to that daemon has ended."""


class Knocker(Protocol):
    """Who wants a connection."""

    ticket: int
    """Whether it wants it still: then it is that of its knock."""

    def connected(self, ticket: int) -> None:
        """The connection stands."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """A challenge is wanted, for which nothing is stored."""


@dataclass(frozen=True, slots=True)
class _Answer:
    answer: c.Answer
    cost: float


@dataclass(slots=True)
class _Item:
    caller: Caller | None
    ticket: int
    what: Challenge | c.Command | _Answer


class Daemon:
    """One process. Its event loop and its writer share one core, in slices, as two threads of Python do."""

    def __init__(self, clock: Clock, store: Store, costs: Costs, tally: Tally, *, bound: int) -> None:
        self._clock, self._store, self._costs, self._tally = clock, store, costs, tally
        self._bound = bound
        self._of: dict[type, Cost] = {
            c.OpenSession: costs.open,
            c.CheckOut: costs.check_out,
            c.Heartbeat: costs.heartbeat,
            c.Expire: Cost(arrive=0.0, decide=0.0, answer=0.0),
        }
        self.links: dict[Caller, bool] = {}
        """Who has a stream here, and whether its first message is still to come."""
        self.up = False
        self._life = 0
        self._clear()

    def _clear(self) -> None:
        #: What has come on streams, and answers that are to be sent.
        self._inbox: deque[_Item] = deque()
        #: How much of it is left to this turn.
        self._left_to_turn = 0
        self._challenges: deque[_Item] = deque()
        self._openings: deque[_Item] = deque()
        self._streams: deque[_Item] = deque()
        self._lines = (self._challenges, self._openings, self._streams)
        self._backlog: Backlog[_Item] = Backlog(self._bound)
        self._batch: list[_Item] = []
        self._locked = False
        self._left = 0.0
        self._running = False
        self._busy_until = self._clock.now
        #: Who wants to be connected.
        self._door: deque[tuple[Knocker, int]] = deque()
        self._greeting = False

    # ---- its life ----

    def start(self) -> None:
        """Serves from now on."""
        self.up = True
        self._clear()
        self._clock.at(self._clock.now, self._tick, self._life)

    def kill(self) -> None:
        """Ends at once; what was not committed has not happened, and who was connected finds out."""
        self.up = False
        self._life += 1
        if self._locked:
            self._store.release()
        self._clear()
        links, self.links = self.links, {}
        for caller in links:
            self._clock.at(self._clock.now + self._costs.network, caller.cut_off, self)

    def _tick(self, life: int) -> None:
        if life != self._life:
            return
        expire = c.Expire(limit=AT_ONCE)
        self._backlog.let_in(expire, _Item(None, 0, expire))
        self._go()
        self._clock.at(self._clock.now + _TICK, self._tick, life)

    # ---- what arrives ----

    def knock(self, knocker: Knocker, ticket: int) -> None:
        """Somebody wants to be connected."""
        if self.up:
            self._tally.arrived(self._clock.now)
            self._door.append((knocker, ticket))
            if not self._greeting:
                self._greet(self._life)

    def arrive(self, caller: Caller, ticket: int, what: Challenge | c.Command) -> None:
        """Takes in what has come over the network."""
        if self.up:
            self._tally.arrived(self._clock.now)
            self._line_of(caller, what).append(_Item(caller, ticket, what))
            self._tally.unread(len(self._inbox) + sum(map(len, self._lines)))
            self._go()

    def _line_of(self, caller: Caller, what: Challenge | c.Command) -> deque[_Item]:
        if isinstance(what, Challenge):
            return self._challenges
        if isinstance(what, c.OpenSession):
            return self._openings
        return self._streams if self.links.get(caller) else self._inbox

    def _greet(self, life: int) -> None:
        """Makes the handshakes one after the other, as threads of gRPC's own do beside Python."""
        if life != self._life:
            return
        at, door = self._clock.now, self._door
        while door:
            knocker, ticket = door.popleft()
            if knocker.ticket != ticket:
                at += self._costs.gone
                continue
            at += self._costs.connect
            self._clock.at(at + self._costs.network, knocker.connected, ticket)
            break
        self._greeting = at > self._clock.now
        if self._greeting:
            self._clock.at(at, self._greet, life)

    def _go(self) -> None:
        if not self._running:
            self._running = True
            self._clock.at(max(self._clock.now, self._busy_until), self._turn, self._life)

    def _turn(self, life: int) -> None:
        """One slice of the event loop, then one of the writer."""
        if life != self._life:
            return
        at = self._clock.now
        end = at + self._costs.slice
        while at < end and self._unread:
            at = self._take(at)
        if not self._batch and len(self._backlog):
            self._gather()
        if self._locked and self._left > 0.0:
            part = min(self._left, self._costs.slice)
            at += part
            self._left -= part
            if self._left <= 0.0:
                self._clock.at(at + self._costs.commit, self._commit, life)
        self._busy_until = at
        self._running = self._unread or (self._locked and self._left > 0.0)
        if self._running:
            self._clock.at(at, self._turn, life)

    @property
    def _unread(self) -> bool:
        return bool(self._inbox) or any(self._lines)

    def _take(self, at: float) -> float:
        """Reads the next of what has come on streams, or one call of each method; gives when that is done."""
        if self._left_to_turn and self._inbox:
            self._left_to_turn -= 1
            return self._read(self._inbox.popleft(), at)
        for line in self._lines:
            if line:
                at = self._read(line.popleft(), at)
        self._left_to_turn = len(self._inbox)
        return at

    def _read(self, item: _Item, at: float) -> float:
        """Deals with one item from an instant on; gives when that is done."""
        costs, caller, what = self._costs, item.caller, item.what
        if caller is None:
            return at
        if caller.ticket != item.ticket:
            return at + costs.gone
        if isinstance(what, _Answer):
            at += what.cost
            self._clock.at(at + costs.network, caller.answered, item.ticket, what.answer)
        elif isinstance(what, Challenge):
            at += costs.challenge
            self._clock.at(at + costs.network, caller.answered, item.ticket, None)
        elif isinstance(what, c.Command):
            at += self._of[type(what)].arrive
            if self.links.get(caller):
                self.links[caller] = False
                at += costs.stream
            try:
                # Each client sends so little that nobody has to go for another one.
                self._backlog.let_in(what, item)
            except Refusal as refusal:
                at += costs.refuse
                self._tally.refused(what)
                self._clock.at(at + costs.network, caller.answered, item.ticket, refusal.with_traceback(None))
            else:
                self._tally.waiting(len(self._backlog))
        return at

    # ---- the committer ----

    def _gather(self) -> None:
        while len(self._batch) < LARGEST_BATCH and (popped := self._backlog.pop()) is not None:
            self._batch.append(popped[2])
        life = self._life
        self._left = self._costs.batch
        if not self._store.away:
            self._left += sum(self._of[type(item.what)].decide for item in self._batch)

        def begun() -> None:
            if life != self._life:
                self._store.release()
                return
            self._locked = True
            self._go()

        self._store.lock(begun)

    def _commit(self, life: int) -> None:
        if life != self._life:
            return
        batch, self._batch, self._locked = self._batch, [], False
        if self._store.away:
            answers: list[c.Answer] = [_AWAY] * len(batch)
        else:
            answers = self._store.transact([item.what for item in batch if isinstance(item.what, c.Command)])
        self._store.release()
        for item, answer in zip(batch, answers, strict=True):
            refused = isinstance(answer, Refusal)
            cost = self._costs.refuse if refused else self._of[type(item.what)].answer
            self._inbox.append(_Item(item.caller, item.ticket, _Answer(answer, cost)))
        self._go()


_AWAY: Final = Refusal(Reason.STORE_UNAVAILABLE, "The store cannot be written at the moment.", retry_after=SECOND)
