"""A client: a program that starts, takes one seat and keeps it, with the SDK's own keeper and its own retries.

What `aio.py`, `_session.py`, `_line.py`, `_connector.py` and `_dialling.py` do in an event loop is done here by events,
one request at a time: heartbeats begin when the seat is there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from poolkeeper._core.lease import HoldState, LeaseKeeper
from poolkeeper._core.patience import Patience
from poolkeeper._core.retry import Retry
from poolkeeper._dialling import STAGGER
from poolkeeper._enrolment import CHALLENGE_LIFE
from poolkeeper._watch import FIRST_SILENCE, SILENCE, SPARING
from poolkeeper.errors import LeaseExpired, Overloaded, PoolkeeperError, StoreUnavailable, Unreachable
from poolkeeper_server.domain import commands as c
from poolkeeper_server.domain.digest import signed
from poolkeeper_server.domain.refusal import Reason, Refusal
from poolkeeper_server.domain.uses import allocation_name
from tests.bench.growth.behaviour import Behaviour
from tests.bench.growth.clock import Clock
from tests.bench.growth.daemon import Challenge, Daemon
from tests.bench.growth.store import ESTATE, PRODUCT, opening
from tests.bench.growth.tally import Tally

_MICRO: Final = 1e-6
_ERRORS: Final[dict[Reason, type[PoolkeeperError]]] = {
    Reason.OVERLOADED: Overloaded,
    Reason.STORE_UNAVAILABLE: StoreUnavailable,
    Reason.LEASE_EXPIRED: LeaseExpired,
}
_CHALLENGE: Final = Challenge()
#: Why a client without an answer tries again; made once, since there are millions of them.
_SILENT: Final = Unreachable()


@dataclass(slots=True)
class Surroundings:
    """What all clients of a run share. `calm` is a stretch in which no daemon is there and nothing changes."""

    clock: Clock
    daemons: Sequence[Daemon]
    behaviour: Behaviour
    tally: Tally
    random: Random
    network: float
    calm: tuple[float, float] = (0.0, 0.0)


class Dial:
    """A connection that is wanted, until it stands or is not wanted any more."""

    __slots__ = ("_ready", "is_ready", "place", "ticket")

    def __init__(self, ticket: int, place: int, ready: Callable[[Dial], None]) -> None:
        self.ticket, self.place, self._ready = ticket, place, ready
        self.is_ready = False

    def connected(self, ticket: int) -> None:
        """It stands."""
        if ticket == self.ticket:
            self.is_ready = True
            self._ready(self)


class Client:
    """One node with one program. `ticket` numbers what it waits for; an event of an earlier ticket is stale."""

    __slots__ = (
        "_around",
        "_asked",
        "_began",
        "_current",
        "_cut",
        "_dials",
        "_heard",
        "_keeper",
        "_link",
        "_name",
        "_number",
        "_openings",
        "_order",
        "_patience",
        "_request",
        "_retry",
        "_sent_at",
        "ticket",
    )

    def __init__(self, around: Surroundings, number: int) -> None:
        self.ticket = 0
        self._around = around
        self._number = number
        #: The daemons in the order of this client's addresses, of which `_current` is the one used last.
        self._order: tuple[Daemon, ...] = tuple(around.random.sample(around.daemons, len(around.daemons)))
        self._current = 0
        self._patience = Patience()
        self._dials: list[Dial] | None = None
        self._cut = False
        #: Whether anything has come over the present link.
        self._heard = False
        self._link: Daemon | None = None
        self._keeper: LeaseKeeper | None = None
        self._name = ""
        self._openings = 0
        self._request: c.Command | Challenge | None = None
        self._retry: Retry | None = None
        self._began = self._asked = self._sent_at = 0.0

    @property
    def node(self) -> str:
        """Its node's id."""
        return f"n{self._number}"

    @property
    def is_cut_off(self) -> bool:
        """Whether it has lost contact and was not renewed since."""
        return self._cut

    def look(self) -> None:
        """Notes down if it does not believe in its lease now, at the end of a run."""
        if self._keeper is not None and self._name:
            self._note_loss(self._keeper)

    @property
    def holds(self) -> bool:
        """Whether it has a seat, as far as it may believe now."""
        keeper = self._keeper
        return bool(self._name and keeper and keeper.state(self._name, self._around.clock.now) is not HoldState.LOST)

    @property
    def has_started(self) -> bool:
        """Whether it has been given its seat, and has not been told that its session is over."""
        return bool(self._name)

    # ---- long before ----

    def asks(self) -> tuple[c.OpenSession, c.CheckOut]:
        """What it would have asked if its program had been started before the run."""
        self._openings += 1
        return opening(self.node, self._session), self._check_out

    def settle(self, opened: object, granted: object, *, beat_at: float) -> None:
        """Has been running for long: connected to its first daemon, and about to renew at that instant."""
        if not (isinstance(opened, c.SessionOpened) and isinstance(granted, c.Granted)):
            raise TypeError(f"not {opened!r}, {granted!r}")
        now = self._around.clock.now
        self._keeper = LeaseKeeper(
            sent_at=now, lease=opened.lease_duration * _MICRO, interval=opened.heartbeat_interval * _MICRO
        )
        self._name = allocation_name(granted.allocation)
        self._keeper.granted(self._name, 1, leased=True, sent_at=now, remaining=None)
        self._link = self._order[self._current]
        self._link.links[self] = False
        self._heard = True
        self._around.clock.at(beat_at, self._beat, self.ticket)

    # ---- the program ----

    def start(self) -> None:
        """Starts the program."""
        self.ticket += 1
        self._keeper, self._name = None, ""
        self._drop()
        self._began = self._asked = self._around.clock.now
        self._request = None
        self._sent_at = -CHALLENGE_LIFE - 1.0
        self._retry = Retry(self._around.behaviour.start, started=self._began)
        self._attempt()

    def _start_again(self) -> None:
        around = self._around
        self.ticket += 1
        self._drop()
        pause = around.behaviour.restart * (1.0 + around.random.random())
        around.clock.at(around.clock.now + pause, self.start)

    # ---- one attempt: dial if need be, then ask ----

    def _attempt(self) -> None:
        if self._link is None:
            self._dial()
        else:
            self._ask()

    def _dial(self) -> None:
        around = self._around
        self.ticket += 1
        self._dials = []
        patience = self._patience.first
        around.clock.at(around.clock.now + patience, self._unanswered, self.ticket)
        self._dial_next(self.ticket, 0)

    def _dial_next(self, ticket: int, tried: int) -> None:
        """Dials the next address whose host takes connections, beside those whose handshakes take long.

        That is asked by TCP, which takes nothing of a daemon here; the host of one that is not there refuses at once.
        """
        if ticket != self.ticket or self._dials is None:
            return
        around, at = self._around, self._around.clock.now
        while tried < len(self._order):
            place = (self._current + tried) % len(self._order)
            tried += 1
            if self._order[place].up:
                self._dials.append(self._knock(place, at, self._connected))
                around.clock.at(at + self._patience.handshake, self._dial_next, ticket, tried)
                return
            # Refused: the next address is tried at once.
            at += 2 * around.network
        if not self._dials:
            around.clock.at(at, self._nobody, ticket)

    def _knock(self, place: int, at: float, ready: Callable[[Dial], None]) -> Dial:
        dial = Dial(self.ticket, place, ready)
        self._around.clock.at(at + self._around.network, self._order[place].knock, dial, self.ticket)
        return dial

    def _connected(self, dial: Dial) -> None:
        """The first connection that stands is the one; the others are not wanted any more."""
        self._dial_no_more()
        self._current = dial.place
        self._link = self._order[self._current]
        self._heard = False
        # A session's first message begins its stream.
        self._link.links[self] = self._keeper is not None
        self._ask()

    def _unanswered(self, ticket: int) -> None:
        if ticket != self.ticket or self._dials is None:
            return
        self._dial_no_more()
        self._patience.unheard()
        self._failed(_SILENT)
        self._elsewhere()

    def _dial_no_more(self) -> None:
        for dial in self._dials or ():
            dial.ticket = 0
        self._dials = None

    def _nobody(self, ticket: int) -> None:
        if ticket == self.ticket:
            self._failed(_SILENT)

    def _elsewhere(self) -> None:
        self._current = (self._current + 1) % len(self._order)

    def _ask(self) -> None:
        around, now = self._around, self._around.clock.now
        daemon = self._link
        if daemon is None or self._retry is None:
            raise AssertionError
        keeper, most = self._keeper, self._retry.limit(now=now)
        if keeper is None:
            if now - self._sent_at > CHALLENGE_LIFE:
                self._request = _CHALLENGE
            what: c.Command | Challenge = self._request or _CHALLENGE
        else:
            self._sent_at = now
            if self._name:
                beat = keeper.beat()
                what = c.Heartbeat(
                    estate_id=ESTATE, session_id=self._session, count=beat.count, digest=signed(beat.digest)
                )
            else:
                # Nothing has come through the line yet.
                most = min(most, self._patience.first)
                what = self._check_out
        self._request = what
        around.tally.sent[type(what)] += 1
        self.ticket += 1
        around.clock.at(now + around.network, daemon.arrive, self, self.ticket, what)
        around.clock.at(now + most, self._silent, self.ticket)
        if len(self._order) > 1:
            self._look_after(SILENCE if self._heard else FIRST_SILENCE, self.ticket)

    @property
    def _session(self) -> str:
        return f"s{self._number}-{self._openings}"

    @property
    def _check_out(self) -> c.CheckOut:
        return c.CheckOut(
            estate_id=ESTATE,
            caller=self.node,
            request_id=f"r{self._number}-{self._openings}",
            digest=b"",
            session_id=self._session,
            product_id=PRODUCT,
        )

    # ---- what becomes of it ----

    def _silent(self, ticket: int) -> None:
        if ticket == self.ticket:
            self._patience.unheard()
            self._failed(_SILENT)

    # ---- who does not answer ----

    def _look_after(self, silence: float, ticket: int) -> None:
        self._around.clock.at(self._around.clock.now + silence, self._look, silence, ticket)

    def _look(self, silence: float, ticket: int) -> None:
        """Looks whether a host of another daemon is there; where none is, the own one is spared the question."""
        if ticket != self.ticket:
            return
        self._look_after(silence * SPARING, ticket)
        others = [place for place, daemon in enumerate(self._order) if daemon.up and place != self._current]
        if others:
            self._ask_around([], deque([self._current, *others]), ticket)

    def _ask_around(self, asked: list[Dial], to_come: deque[int], ticket: int) -> None:
        """Dials the own daemon, then others beside it; the first that is connected says whether it is left."""
        if ticket != self.ticket or not to_come or any(dial.is_ready for dial in asked):
            return
        now = self._around.clock.now

        def connected(found: Dial) -> None:
            for dial in asked:
                dial.ticket = 0
            if ticket == self.ticket and found.place != self._current:
                self._failed(_SILENT)
                self._current = found.place

        asked.append(self._knock(to_come.popleft(), now, connected))
        self._around.clock.at(now + STAGGER, self._ask_around, asked, to_come, ticket)

    def cut_off(self, daemon: Daemon) -> None:
        """A connection to that daemon has ended: what was asked has no answer, and a stream is made anew at once."""
        if self._link is not daemon:
            return
        self._cut = True
        if self._request is not None:
            self._failed(_SILENT)
        else:
            self._drop()
            self._elsewhere()
            self._beat(self.ticket)

    def _failed(self, error: PoolkeeperError) -> None:
        around, now = self._around, self._around.clock.now
        self.ticket += 1
        self._cut = self._cut or bool(self._name)
        if self._link is not None and not error.reason:
            # What is silent is left; a daemon that refuses is spoken to again on the same connection.
            self._drop()
            self._elsewhere()
        if self._retry is None:
            raise AssertionError
        pause = self._retry.pause(error, now=now, jitter=self._jitter())
        if pause is None:
            around.tally.gave_up += 1
            self._start_again()
            return
        begin, end = around.calm
        again = now + pause
        if begin <= again < end:
            # Nobody is there, and it has tried often enough for its pauses not to grow any more: the attempts between
            # would all be the same.
            again += end - begin
        around.clock.at(again, self._again, self.ticket)

    def _again(self, ticket: int) -> None:
        if ticket == self.ticket:
            self._attempt()

    def _drop(self) -> None:
        if self._link is not None:
            self._link.links.pop(self, None)
            self._link = None

    def _jitter(self) -> float:
        behaviour = self._around.behaviour
        return self._around.random.random() * behaviour.jitter

    def answered(self, ticket: int, answer: object) -> None:
        """An answer came; None is a challenge."""
        if ticket != self.ticket:
            return
        self.ticket += 1
        self._patience.heard()
        self._heard = self._keeper is not None
        if isinstance(answer, Refusal):
            self._refused(answer)
        elif answer is None:
            self._openings += 1
            self._sent_at = self._around.clock.now
            self._request = opening(self.node, self._session)
            self._ask()
        elif isinstance(answer, c.SessionOpened):
            self._opened(answer)
        elif isinstance(answer, c.Granted):
            self._granted(answer)
        elif isinstance(answer, c.Renewed):
            self._renewed(answer)

    def _refused(self, refusal: Refusal) -> None:
        error = _ERRORS.get(refusal.reason, PoolkeeperError)(
            "", reason=refusal.reason.value, retry_after=(refusal.retry_after or 0) * _MICRO
        )
        if error.retryable:
            self._failed(error)
            return
        self._around.tally.over += isinstance(error, LeaseExpired)
        if self._keeper is not None and self._name:
            self._note_loss(self._keeper)
        self._start_again()

    def _opened(self, answer: c.SessionOpened) -> None:
        around, now = self._around, self._around.clock.now
        self._keeper = LeaseKeeper(
            sent_at=self._sent_at,
            lease=answer.lease_duration * _MICRO,
            interval=answer.heartbeat_interval * _MICRO,
        )
        # The session goes on over the connection on which it was opened.
        if self._link is not None:
            self._link.links[self] = True
        self._retry = Retry(around.behaviour.start, started=now)
        self._request = None
        self._asked = now
        self._attempt()

    def _granted(self, answer: c.Granted) -> None:
        around, now, keeper = self._around, self._around.clock.now, self._keeper
        if keeper is None or answer.remaining is None:
            raise AssertionError
        self._name = allocation_name(answer.allocation)
        remaining = answer.remaining * _MICRO
        keeper.granted(self._name, answer.use.quantity, leased=True, sent_at=self._sent_at, remaining=remaining)
        keeper.paced(answer.heartbeat_interval * _MICRO)
        around.tally.starts.add(now - self._began)
        around.tally.check_outs.add(now - self._asked)
        self._beat_later(keeper)

    def _renewed(self, answer: c.Renewed) -> None:
        around, now, keeper = self._around, self._around.clock.now, self._keeper
        if keeper is None:
            raise AssertionError
        self._note_loss(keeper)
        keeper.renewed(
            sent_at=self._sent_at,
            remaining=answer.remaining * _MICRO,
            continuation=answer.continuation * _MICRO,
            interval=answer.heartbeat_interval * _MICRO,
            reconcile=answer.reconcile,
            now=now,
        )
        around.tally.heartbeats.add(now - self._asked)
        if self._cut and now >= around.tally.since:
            around.tally.back.add(now - around.tally.since)
        self._cut = False
        self._beat_later(keeper)

    def _note_loss(self, keeper: LeaseKeeper) -> None:
        """It may have ceased to believe, which the keeper knows to the instant, and now it hears again."""
        until, now = keeper.held_until(self._name), self._around.clock.now
        if until is not None and now > until:
            self._around.tally.lost.append((until, now))

    # ---- heartbeats ----

    def _beat_later(self, keeper: LeaseKeeper) -> None:
        self._request = None
        self._around.clock.at(keeper.beat_at(self._jitter()), self._beat, self.ticket)

    def _beat(self, ticket: int) -> None:
        if ticket != self.ticket:
            return
        if self._keeper is None:
            raise AssertionError
        self._asked = self._around.clock.now
        self._retry = Retry(self._around.behaviour.beat(self._keeper.interval), started=self._asked)
        self._attempt()
