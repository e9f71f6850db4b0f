"""The lease keeper: what a session holds, until when it may believe so, and when to renew.

Every instant is a number of seconds on the caller's clock, one that counts suspend and is never set.
A promise counts from the moment its renewal was *sent*: the daemon counts from a later moment and
adds a margin, so no seat has a second holder while the first believes in it (CC-16).

What follows the session's deadline is looked at only when that passes, and when it is renewed after it has passed;
in between, an answer, a renewal and a look at the clock cost the same however much is held. A media server that serves
10,000 encoders with one client is an ordinary one.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from poolkeeper._core.digest import Digest
from poolkeeper.errors import LeaseExpired, LeaseLost

STOP_BEFORE = 5.0
"""Seconds ahead of the deadline at which a program must stop, unless it says otherwise."""
_STOP_SHARE = 0.25
_JITTER_SHARE = 0.2
_OVERDUE_SHARE = 0.5
_OVERDUE_LEAST = 1.0
_JUST_OPENED = 1
"""What `as_of` is in a session that was just opened."""


class HoldState(StrEnum):
    """What a program may believe of an allocation."""

    HELD = "HELD"
    """The last renewal was answered."""
    DOUBTFUL = "DOUBTFUL"
    """One renewal is overdue; the promise still runs and the program goes on."""
    LOST = "LOST"
    """The program must have stopped: the deadline is near, or the daemon said so."""
    ENDED = "ENDED"
    """The program gave it back."""


@dataclass(frozen=True, slots=True)
class Change:
    """An allocation was lost, or came back. That a renewal is overdue is no change: `state` tells it."""

    allocation: str
    state: HoldState
    error: LeaseLost | None = None
    """Why, when it was lost."""
    final: bool = False
    """It cannot come back."""


@dataclass(frozen=True, slots=True)
class Beat:
    """What the next heartbeat carries."""

    count: int
    digest: int
    as_of: int = 0
    """Not 0: `known` is to be sent, for the state of this mark."""
    known: tuple[tuple[str, int], ...] = ()
    """Names and sizes."""
    pending: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Carried:
    """An allocation on its way from a session that the daemon does not know to a new one."""

    name: str
    quantity: int
    leased: bool
    until: float
    """The end of what was promised for it."""
    told_lost: bool
    """Whether the program was told that it is lost."""


@dataclass(slots=True)
class _Held:
    quantity: int
    leased: bool
    told_lost: bool = False
    lapsed: bool = False
    lost: LeaseLost | None = None
    closing: LeaseLost | None = None
    closed_at: float = math.inf
    carried_until: float = math.inf
    named: bool = False
    """The daemon knows that it is known here: what is installed outlasts its session from then on."""

    @property
    def bound(self) -> float:
        """The end of its own last promise, however long the session's goes on."""
        return min(self.closed_at, self.carried_until)


class _Promise:
    """The end of one promise, and what follows it: all that runs ends with it, or earlier at a bound of its own."""

    __slots__ = ("_bounds", "deadline", "running")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.running: dict[str, _Held] = {}
        # Bounds of what runs, the next one first; those that do not hold any more are passed over.
        self._bounds: list[tuple[float, str]] = []

    def run(self, name: str, held: _Held) -> None:
        """Has an allocation follow the promise."""
        self.running[name] = held
        if held.bound < math.inf:
            heapq.heappush(self._bounds, (held.bound, name))

    def ended(self, now: float, stop_before: float) -> list[tuple[str, _Held]]:
        """Takes out what must have stopped by now."""
        if now >= self.deadline - stop_before:
            running, self.running = self.running, {}
            self._bounds.clear()
            return list(running.items())
        found = []
        while self._bounds and now >= self._bounds[0][0] - stop_before:
            bound, name = heapq.heappop(self._bounds)
            if self._holds_still(bound, name):
                found.append((name, self.running.pop(name)))
        return found

    def next_end(self) -> float:
        """The end of what ends next; may be infinite."""
        if not self.running:
            return math.inf
        while self._bounds and not self._holds_still(*self._bounds[0]):
            heapq.heappop(self._bounds)
        return min(self.deadline, self._bounds[0][0]) if self._bounds else self.deadline

    def _holds_still(self, bound: float, name: str) -> bool:
        held = self.running.get(name)
        return held is not None and held.bound == bound


class LeaseKeeper:
    """The state machine of one session and of the allocations in it.

    What is leased lasts as long as the session's promise, and so does what is installed until the daemon has heard that
    it is known here. From then on it lasts for the continuation after the last contact.
    """

    def __init__(self, *, sent_at: float, lease: float, interval: float, stop_before: float = STOP_BEFORE) -> None:
        """A session whose opening was sent at `sent_at` and that nothing is held in yet."""
        self._lease = lease
        self._interval = interval
        self._stop_before = stop_before
        self._renewed_at = sent_at
        self._held: dict[str, _Held] = {}
        # What is neither lost nor lapsed follows one of these.
        self._lease_promise = _Promise(sent_at + lease)
        self._continuation = _Promise(math.inf)
        # Installed ones that the next heartbeat names first, and those that were named and not heard to be agreed on.
        self._unnamed: dict[str, _Held] = {}
        self._naming: dict[str, _Held] = {}
        # What may come back with the next renewal, what the next renewal confirms, and what no end was told of yet.
        self._lapsed: dict[str, _Held] = {}
        self._carried: dict[str, _Held] = {}
        self._endless: dict[str, _Held] = {}
        self._digest = Digest()
        self._reconcile = 0
        self._reconciled = False
        self._over: LeaseLost | None = None

    # What happens.

    def granted(self, name: str, quantity: int, *, leased: bool, sent_at: float, remaining: float | None) -> None:
        """A check-out was answered; asked for again, an allocation takes its new size."""
        held = self._held.get(name)
        if held is None:
            held = self._held[name] = self._endless[name] = _Held(quantity=quantity, leased=leased)
            self._lease_promise.run(name, held)
            if not leased:
                self._unnamed[name] = held
        self.resized(name, quantity)
        if leased and remaining is not None:
            self._lease_promise.deadline = max(self._lease_promise.deadline, sent_at + remaining)

    def resized(self, name: str, quantity: int) -> None:
        """An allocation that is held has another size."""
        held = self._held.get(name)
        if held is not None:
            held.quantity = quantity
            self._digest.put(name, quantity)

    def forgotten(self, name: str) -> None:
        """The allocation was checked in, or its loss acknowledged."""
        self._held.pop(name, None)
        self._take_out(name)
        self._digest.drop(name)

    def left(self, name: str, now: float) -> Carried | None:
        """Lets go of an allocation that goes on in another session; None for one that cannot."""
        held = self._held.get(name)
        if held is None or held.lost is not None:
            return None
        until = self._end_of(held)
        if now >= until and not held.named:
            return None  # What is installed may be there still, though it was not to be used any more.
        self.forgotten(name)
        return Carried(name=name, quantity=held.quantity, leased=held.leased, until=until, told_lost=held.told_lost)

    def carried(self, what: Carried, *, prove: bool) -> None:
        """Takes an allocation over from an earlier session.

        To be proven, it is held until the end of what was promised there, and for longer when the first heartbeat,
        which says that it is known here, was answered without a notice of it.
        """
        name = what.name
        held = self._held[name] = self._endless[name] = _Held(quantity=what.quantity, leased=what.leased)
        held.told_lost = what.told_lost
        # It outlasted one session already.
        held.named = not what.leased
        held.carried_until = what.until
        self._carried[name] = held
        self._digest.put(name, what.quantity)
        if what.told_lost:
            held.lapsed = True
            self._lapsed[name] = held
        else:
            self._promise_of(held).run(name, held)
        if prove:
            self._reconcile = self._reconcile or _JUST_OPENED

    def renewed(
        self, *, sent_at: float, remaining: float, continuation: float, interval: float, reconcile: int, now: float
    ) -> list[Change]:
        """A heartbeat that was sent at `sent_at` was answered; `continuation` is for what is installed.

        What had lapsed comes back, unless the daemon's view still differs from ours.
        """
        changes = self.observed(now)
        self._lease_promise.deadline = max(self._lease_promise.deadline, sent_at + remaining)
        self._renewed_at = max(self._renewed_at, sent_at)
        self.paced(interval)
        # Asked to reconcile again right after it was done: the next regular heartbeat is soon enough.
        self._reconcile, self._reconciled = reconcile, bool(reconcile and self._reconcile)
        if not reconcile:
            until, before = sent_at + continuation, self._continuation.deadline
            self._continuation.deadline = until if before == math.inf else max(before, until)
            self._confirm()
            changes += self._regain(now) + self.observed(now)
        return changes

    def paced(self, interval: float) -> None:
        """The daemon wants heartbeats at this interval from now on."""
        if interval > 0:
            self._interval = interval

    def noticed(self, name: str | None, error: LeaseLost, *, final_at: float | None, now: float) -> list[Change]:
        """The daemon says that an allocation ended, or at `final_at` that its promise is the last.

        Without a name it says so of all that the session holds, with every heartbeat: what has heard already that its
        promise is the last is passed by.
        """
        if name is not None:
            about = {name: self._held[name]} if name in self._held else {}
        else:
            about = self._held if final_at is None else self._endless
        changes = []
        for concerned, held in list(about.items()):
            if held.lost is not None:
                continue
            if final_at is not None:
                last = final_at if self._promise_of(held) is self._lease_promise else self._continuation.deadline
                before, held.closed_at = held.bound, min(held.closed_at, max(last, now))
                held.closing = error
                self._endless.pop(concerned, None)
                if not held.lapsed and held.bound < before:
                    self._promise_of(held).run(concerned, held)
            else:
                changes.append(self._lose(concerned, held, error))
        return changes + self.observed(now)

    def ended(self, error: LeaseLost, *, everything: bool, now: float) -> list[Change]:
        """The session is over, and with it all that it does not outlast; `everything`: what is installed too."""
        self._over = error
        changes = [
            self._lose(name, held, error)
            for name, held in self._held.items()
            if held.lost is None and (everything or not held.named)
        ]
        return changes + self.observed(now)

    def observed(self, now: float) -> list[Change]:
        """What was lost by the passing of time since the last look."""
        return [
            self._lapse(name, held, now)
            for promise in (self._lease_promise, self._continuation)
            for name, held in promise.ended(now, self.stop_before)
        ]

    # What follows.

    @property
    def deadline(self) -> float:
        """The end of the session's promise."""
        return self._lease_promise.deadline

    @property
    def interval(self) -> float:
        """Seconds between heartbeats, as the daemon last said."""
        return self._interval

    @property
    def over(self) -> LeaseLost | None:
        """Why the session is over, or None while it is open as far as we know."""
        return self._over

    @property
    def names(self) -> tuple[str, ...]:
        """The allocations that are known here, lost ones too until they are given back."""
        return tuple(self._held)

    def knows(self, name: str) -> bool:
        """Whether an allocation is among `names`."""
        return name in self._held

    def quantity(self, name: str) -> int | None:
        """How many seats of an allocation are known here; None for one that is not."""
        held = self._held.get(name)
        return None if held is None else held.quantity

    def outlasts_session(self, name: str) -> bool:
        """Whether an allocation is installed, and the daemon knows that it is known here."""
        held = self._held.get(name)
        return held is not None and held.named

    @property
    def stop_before(self) -> float:
        """Seconds ahead of a deadline at which an allocation counts as lost."""
        return min(self._stop_before, self._lease * _STOP_SHARE)

    def state(self, name: str, now: float) -> HoldState:
        """What the program may believe of an allocation at this instant."""
        held = self._held.get(name)
        return HoldState.ENDED if held is None else self._state(held, now)

    def why(self, name: str) -> LeaseLost | None:
        """Why an allocation is lost, when it is."""
        held = self._held.get(name)
        return self._why(held) if held and (held.lost or held.lapsed) else None

    def held_until(self, name: str) -> float | None:
        """The instant up to which the program may believe; None when silence does not end it."""
        held = self._held.get(name)
        if held is None or held.lost is not None:
            return -math.inf
        until = self._stop_at(held)
        return None if until == math.inf else until

    def beat_at(self, jitter: float) -> float:
        """When the next heartbeat is due; `jitter`, from 0 to 1, brings it forward by up to a fifth."""
        if self._reconcile and not self._reconciled:
            return self._renewed_at
        return self._renewed_at + self._interval * (1 - _JITTER_SHARE * jitter)

    def changes_at(self, now: float) -> float:
        """The next instant at which time alone makes a change, `now` if there is one already; may be infinite."""
        end = min(self._lease_promise.next_end(), self._continuation.next_end())
        return max(now, end - self.stop_before)

    def beat(self, pending: Iterable[str] = ()) -> Beat:
        """What to send now; with everything that is known when the daemon asked for it (CC-29)."""
        if self._unnamed:
            self._naming |= self._unnamed
            self._unnamed.clear()
        if not self._reconcile:
            return Beat(count=self._digest.count, digest=self._digest.value)
        return self.account(self._reconcile, pending)

    def goodbye(self) -> Beat:
        """What to say of what is held when the session is closed: what is lost is used no more."""
        for name in [name for name, held in self._held.items() if held.lost is not None]:
            self.forgotten(name)
        return self.beat()

    def account(self, as_of: int, pending: Iterable[str] = ()) -> Beat:
        """Everything that is known, for a daemon that has asked for it."""
        return Beat(
            count=self._digest.count,
            digest=self._digest.value,
            as_of=as_of,
            known=tuple((name, held.quantity) for name, held in self._held.items()),
            pending=tuple(pending),
        )

    @property
    def _doubtful_at(self) -> float:
        return self._renewed_at + self._interval + max(self._interval * _OVERDUE_SHARE, _OVERDUE_LEAST)

    def _stop_at(self, held: _Held) -> float:
        return self._end_of(held) - self.stop_before

    def _end_of(self, held: _Held) -> float:
        return min(self._promise_of(held).deadline, held.bound)

    def _promise_of(self, held: _Held) -> _Promise:
        return self._continuation if held.named else self._lease_promise

    def _state(self, held: _Held, now: float) -> HoldState:
        if held.lost is not None or held.lapsed or now >= self._stop_at(held):
            return HoldState.LOST
        return HoldState.DOUBTFUL if held.leased and now >= self._doubtful_at else HoldState.HELD

    def _why(self, held: _Held) -> LeaseLost:
        return (
            held.lost
            or held.closing
            or LeaseExpired(
                "No renewal was answered in time.",
                reason="LEASE_EXPIRED",
                hint="The allocation comes back if the session is still open when contact returns.",
            )
        )

    def _take_out(self, name: str) -> None:
        """Has an allocation follow nothing any more."""
        for some in (
            self._lease_promise.running,
            self._continuation.running,
            self._unnamed,
            self._naming,
            self._lapsed,
            self._carried,
            self._endless,
        ):
            some.pop(name, None)

    def _lapse(self, name: str, held: _Held, now: float) -> Change:
        held.lapsed = held.told_lost = True
        if now < held.closed_at - self.stop_before:
            self._lapsed[name] = held
        return Change(allocation=name, state=HoldState.LOST, error=self._why(held))

    def _lose(self, name: str, held: _Held, error: LeaseLost) -> Change:
        held.lost, held.told_lost = error, True
        self._take_out(name)
        return Change(allocation=name, state=HoldState.LOST, error=error, final=True)

    def _confirm(self) -> None:
        carried, self._carried = self._carried, {}
        for name, held in carried.items():
            held.carried_until = math.inf
            if not held.lapsed:
                self._promise_of(held).run(name, held)
        naming, self._naming = self._naming, {}
        for name, held in naming.items():
            held.named = True
            if self._lease_promise.running.pop(name, None) is not None:
                self._continuation.run(name, held)

    def _regain(self, now: float) -> list[Change]:
        changes = []
        lapsed, self._lapsed = self._lapsed, {}
        for name, held in lapsed.items():
            promise = self._promise_of(held)
            if now >= promise.deadline - self.stop_before:
                self._lapsed[name] = held  # It came too late to be of any use.
            elif now < held.bound - self.stop_before:
                held.lapsed = held.told_lost = False
                promise.run(name, held)
                changes.append(Change(allocation=name, state=HoldState.HELD))
        return changes
