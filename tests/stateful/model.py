"""One estate as the design tells it (CC-10 to CC-30, CC-44), slowly and plainly: one item of `lines` is one seat.

It knows leased seats alone. `do` gives what a command must be answered, in words that `said` makes of an answer too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from poolkeeper_server.domain import commands as c
from poolkeeper_server.domain import records
from poolkeeper_server.domain.moment import SECOND, Moment
from poolkeeper_server.domain.refusal import Reason, Refusal

Words = tuple[Any, ...]


class Refused(Exception):
    """A command that changes nothing."""


#: What becomes of a waiter that goes on waiting.
WAITS = ("refused", "it waits")


@dataclass
class Seats:
    """Seats given to one consumer, or resting for it: the licence of each, and what each session needs of them."""

    name: str
    pool: str
    product: str
    key: tuple[str, ...]
    node: str
    lines: list[str]
    since: int
    state: str = "ACTIVE"
    users: dict[str, int] = field(default_factory=dict)
    asked: dict[str, str] = field(default_factory=dict)
    until: int = 0
    deadline: int = 0
    reason: str = ""
    skip: bool = False


@dataclass
class Session:
    """A promise to one running client, and its end a margin later."""

    name: str
    node: str
    pool: str
    promised: int
    expires: int
    open: bool = True
    unheard: bool = False


class Model:
    """All of it; commands are decided one after the other, and what came free goes to those who wait."""

    def __init__(self, pools: dict[str, c.PoolSettings], lines: dict[str, tuple[set[str], int | None]]) -> None:
        self.pools = pools
        self.lines = lines  # best first: products, and the end of the dates
        self.counts: dict[tuple[str, str], int] = {}
        self.nodes: dict[str, str] = {}
        self.registered: set[str] = set()
        self.sessions: dict[str, Session] = {}
        self.seats: list[Seats] = []
        self.waiting: dict[tuple[str, str], tuple[c.CheckOut, int]] = {}  # by request, in the order of their numbers
        self.dates: dict[tuple[str, str], int | None] = {}  # when a queue's lines begin or end next
        self.looked: set[str] = set()  # pools whose queues were looked at in this batch
        self.unsettled: set[str] = set()  # pools in which something was due, which may have been taken back
        self.done: dict[tuple[str, str], tuple[bytes, str]] = {}
        self.freed: list[str] = []
        self.served: list[tuple[str, Words]] = []
        self.gone: dict[str, str] = {}

    def begin(self, now: Moment, *, names: Any, spares: Any, fences: Any) -> None:
        """What chance decides: the time, the names of new seats by request and of what is split off, and fences."""
        self.now, self.names, self.spares, self.fences = now, names, spares, fences
        self.looked = set()
        self.unsettled = set()

    def do(self, command: c.Command) -> Words:
        """Carries a command out."""
        session = self.sessions.get(command.session_id) if isinstance(command, c.CheckOut) else None
        if session is not None and session.pool not in self.looked and self.waits_in(session.pool):
            self.freed.append(session.pool)  # whoever waits goes first
            self.follow()
        words = self.trying(lambda: DECIDE[type(command)](self, command))
        self.follow()
        return words

    def follow(self) -> None:
        """Whatever was found due has ended, whoever was refused all the same; and who waits is served."""
        while self.freed or self.unsettled:
            while self.unsettled:
                self.end_due(self.unsettled.pop())
            if not self.freed:
                break
            pool = self.freed[0]
            self.freed = [other for other in self.freed if other != pool]
            self.serve(pool)

    def trying(self, work: Callable[[], Words]) -> Words:
        before, unsettled = copy.deepcopy(self.__dict__), self.unsettled
        try:
            return work()
        except Refused as refused:
            self.__dict__ = before
            self.unsettled = unsettled
            return ("refused", str(refused))

    # ---- sessions ----

    def open(self, command: c.OpenSession) -> Words:
        pool = self.nodes[command.node_id]
        self.sessions[command.session_id] = Session(command.session_id, command.node_id, pool, 0, 0)
        self.renew(self.sessions[command.session_id])
        return ("opened",)

    def alive(self, name: str) -> Session:
        if name not in self.sessions or not self.sessions[name].open:
            raise Refused(Reason.LEASE_EXPIRED)
        return self.sessions[name]

    def renew(self, session: Session) -> None:
        """A promise is never shortened."""
        settings = self.pools[session.pool]
        session.promised = max(session.promised, self.now.lease + (settings.lease_duration or 0))
        session.expires = max(session.expires, session.promised + (settings.margin or 0))

    def heartbeat(self, command: c.Heartbeat) -> Words:
        session = self.alive(command.session_id)
        lost = sorted(seats.name for seats in self.revoked(session)) if session.unheard else []
        session.unheard = bool(lost)
        self.renew(session)
        return ("renewed", session.promised - self.now.lease, lost)

    def close(self, command: c.CloseSession) -> Words:
        if command.session_id not in self.sessions:
            raise Refused(Reason.NOT_FOUND)
        if self.sessions[command.session_id].open:
            self.end_session(self.sessions[command.session_id], "ENDED")
        return ("session",)

    def end_session(self, session: Session, reason: str) -> None:
        for request, (asked, _) in list(self.waiting.items()):
            if asked.session_id == session.name:
                self.leave(request, ("refused", Reason.LEASE_EXPIRED))
        for seats in list(self.seats):
            if session.name in seats.users:
                self.end_use(seats, session.name, reason)
        session.open = session.unheard = False

    def revoked(self, session: Session) -> list[Seats]:
        return [seats for seats in self.seats if seats.state == "REVOKED" and session.name in seats.users]

    # ---- taking seats ----

    def check_out(self, command: c.CheckOut, *, turn: set[str] | None = None) -> Words:
        in_turn = turn is not None
        session, request = self.alive(command.session_id), (command.caller, command.request_id)
        if request in self.done and not in_turn:
            return self.again(command, session)
        if request in self.waiting:
            asked, deadline = self.waiting[request]
            if asked.digest != command.digest:
                raise Refused(Reason.REQUEST_ID_REUSED)
            self.waiting[request] = (command, deadline)
            return ("waiting", self.queue(session.pool, command.product_id).index(request) + 1)
        if not session.unheard:
            self.renew(session)
        kept = self.kept(session.pool) if turn is None else turn
        here = [line for line in self.lines if self.grants(session.pool, line, command.product_id)]
        granted = self.attempt(command, session, in_turn=in_turn, kept=kept)
        if granted is None and not kept.issuperset(here) and self.find_due(session.pool):
            granted = self.attempt(command, session, in_turn=in_turn, kept=kept)
        if granted is not None:
            return granted
        could = self.could(command)
        if in_turn and could:
            raise Refused(WAITS[1])
        if not any(self.usable(line) for line in here):
            raise Refused(Reason.CLOCK_FROZEN if self.now.frozen else Reason.LICENCE_EXPIRED)
        if not could or not command.wait:
            raise Refused(Reason.NO_SEAT_AVAILABLE)
        self.alive(session.name)  # what was due may have been this session
        self.waiting[request] = (command, self.now.lease + command.wait)
        self.dates[session.pool, command.product_id] = self.next_date(here)
        self.looked.add(session.pool)
        return ("waiting", len(self.queue(session.pool, command.product_id)))

    def own(self, command: c.CheckOut) -> tuple[tuple[str, ...], list[Seats], list[Seats]]:
        """The key of a consumer, what it holds in the pool, and what rests for it there."""
        pool, node = self.nodes[command.caller], command.caller
        whose = () if command.consumer in self.registered else (node,)
        key = (*whose, command.consumer) if command.consumer else (node, "", "")
        asked = (pool, command.product_id, key)
        same = [seats for seats in self.seats if (seats.pool, seats.product, seats.key) == asked]
        held = [seats for seats in same if command.consumer and seats.state != "QUARANTINED"]
        return key, held, [seats for seats in same if seats.state == "QUARANTINED" and seats.until > self.now.civil]

    def could(self, command: c.CheckOut) -> set[str]:
        """The lines of which it could be served, were all of their seats free; none when that will never be."""
        pool = self.nodes[command.caller]
        _, held, resting = self.own(command)
        room = {
            line: self.counts[pool, line]
            for line in self.lines
            if self.grants(pool, line, command.product_id) and not self.ended(line)
        }
        has = held[0].lines if held else [line for seats in resting for line in seats.lines if line not in room]
        for line in has:
            room |= {line: room[line] - 1} if line in room else {}
        return (
            {line for line in room if room[line] > 0} if self.need(command) - len(has) <= sum(room.values()) else set()
        )

    def kept(self, pool: str) -> set[str]:
        """The lines that those who wait in a pool keep from who comes now (CC-44)."""
        return {line for asked, _ in self.waits_in(pool).values() for line in self.could(asked)}

    def attempt(self, command: c.CheckOut, session: Session, *, in_turn: bool, kept: set[str]) -> Words | None:
        pool, product, need = session.pool, command.product_id, self.need(command)
        key, held, resting = self.own(command)
        if held:
            return self.share(command, held[0], session, in_turn=in_turn, kept=kept)
        if not any(self.grants(pool, line, product) for line in self.lines):
            raise Refused(Reason.PRODUCT_NOT_GRANTED)
        resting.sort(key=lambda seats: (len(seats.lines) != need, seats.until, seats.name))
        more = self.choose(pool, product, need - sum(len(seats.lines) for seats in resting), kept=kept)
        if more is None:
            return None
        new = Seats("", pool, product, key, session.node, [], self.now.civil)
        if resting:
            new = self.take_up(resting, need)
        else:
            new.name = self.names.get((command.caller, command.request_id), "")
            self.seats.append(new)
        new.lines, new.node, new.state = grouped(new.lines + more), session.node, "ACTIVE"
        if in_turn:
            new.state, new.deadline = "PROVISIONAL", self.now.lease + 10 * SECOND
        else:
            new.until = 0
        return self.use(command, new, session, resumed=bool(resting))

    def take_up(self, resting: list[Seats], need: int) -> Seats:
        """Its own seats again, with the latest of their clocks; what is not needed goes on resting (CC-22)."""
        first, *others = resting
        rest = self.split(first, need)
        if rest is not None:
            rest.name = self.spares[first.name].pop(0)
        for other in others:
            part = other.lines[: need - len(first.lines)]
            if part:
                first.lines, other.lines = grouped(first.lines + part), other.lines[len(part) :]
                first.since, first.until = max(first.since, other.since), max(first.until, other.until)
            if not other.lines:
                self.seats.remove(other)
                self.gone[other.name] = other.node
        first.users, first.asked, first.reason, first.skip = {}, {}, "", False
        return first

    def share(
        self, command: c.CheckOut, held: Seats, session: Session, *, in_turn: bool, kept: set[str]
    ) -> Words | None:
        """One seat for one consumer, sized by the largest of those who use it (CC-19, CC-30)."""
        if held.state == "REVOKED":
            raise Refused(Reason.REVOKED)
        size = max([self.need(command), *(need for user, need in held.users.items() if user != session.name)])
        more = self.choose(held.pool, held.product, size - len(held.lines), kept=kept)
        if more is None:
            return None
        if held.state == "PROVISIONAL" and not in_turn:
            held.state, held.deadline, held.until = "ACTIVE", 0, 0
        held.lines = grouped(held.lines + more)
        self.shrink(held, size, "UNIT_REMOVED")
        return self.use(command, held, session)

    def use(self, command: c.CheckOut, seats: Seats, session: Session, *, resumed: bool = False) -> Words:
        self.alive(session.name)  # what was due may have been this session
        seats.users[session.name], seats.asked[session.name] = self.need(command), command.request_id
        self.done[command.caller, command.request_id] = (command.digest, seats.name)
        return self.granted(seats, session, resumed=resumed)

    def granted(self, seats: Seats, session: Session, *, resumed: bool = False) -> Words:
        ends = [session.promised]
        if session.unheard:  # promised no more than what is revoked is kept for (CC-16, CC-23)
            ends += [lost.deadline - (self.pools[session.pool].margin or 0) for lost in self.revoked(session)]
        remaining = max(0, min(ends) - self.now.lease)
        return ("granted", seats.name, seats.state, seats.lines[:], seats.users[session.name], remaining, resumed)

    def again(self, command: c.CheckOut, session: Session) -> Words:
        """A repeated request: what became of it, and never a second seat (CC-13)."""
        digest, name = self.done[command.caller, command.request_id]
        if digest != command.digest:
            raise Refused(Reason.REQUEST_ID_REUSED)
        seats = self.find(name)
        own = [user for user in (seats.users if seats else ()) if self.sessions[user].node == session.node]
        own.sort(key=lambda user: (seats is None or seats.asked[user] != command.request_id, user != session.name))
        by_request = seats is not None and own and seats.asked[own[0]] == command.request_id
        if seats is None or not own or not (by_request or own[0] == session.name):
            raise Refused(Reason.LEASE_EXPIRED)
        if seats.state == "REVOKED":
            raise Refused(Reason.REVOKED)
        if own[0] != session.name:
            earlier, need = self.sessions[own[0]], seats.users.pop(own[0])
            seats.asked[session.name] = seats.asked.pop(own[0])
            seats.users[session.name] = max(need, seats.users.get(session.name, 0))
            session.promised = max(session.promised, earlier.promised)
            session.expires = max(session.expires, earlier.expires)
        return self.granted(seats, session)

    def need(self, command: c.CheckOut) -> int:
        return command.quantity or max([1, *(-(-amount // 4) for _, amount in command.demand)])

    def grants(self, pool: str, line: str, product: str) -> bool:
        return product in self.lines[line][0] and self.counts.get((pool, line), 0) > 0

    def usable(self, line: str) -> bool:
        end = self.lines[line][1]
        return end is None or (not self.now.frozen and self.now.civil < end)

    def ended(self, line: str) -> bool:
        end = self.lines[line][1]
        return end is not None and not self.now.frozen and self.now.civil >= end

    def next_date(self, lines: list[str]) -> int | None:
        ends = [end for line in lines if (end := self.lines[line][1]) is not None and end > self.now.civil]
        return min(ends, default=None)

    def free(self, pool: str, line: str) -> int:
        taken = sum(seats.lines.count(line) for seats in self.seats if seats.pool == pool)
        return self.counts.get((pool, line), 0) - taken

    def choose(self, pool: str, product: str, need: int, *, kept: set[str]) -> list[str] | None:
        """Free seats of the best lines that nobody waits for, all or nothing (CC-20)."""
        usable = [line for line in self.lines if self.grants(pool, line, product) and self.usable(line)]
        free = [line for line in usable if line not in kept for _ in range(self.free(pool, line))]
        return [] if need <= 0 else free[:need] if len(free) >= need else None

    # ---- giving seats back ----

    def find(self, name: str) -> Seats | None:
        return next((seats for seats in self.seats if seats.name == name), None)

    def look(self, name: str) -> Words:
        seats = self.find(name)
        return ("seats", name, seats.state if seats else "ENDED")

    def check_in(self, command: c.CheckIn) -> Words:
        before = self.done.get((command.caller, command.request_id))
        if before and before[0] != command.digest:
            raise Refused(Reason.REQUEST_ID_REUSED)
        seats = self.find(command.allocation_id)
        if seats and command.session_id in seats.users and not before:
            self.done[command.caller, command.request_id] = (command.digest, seats.name)
            self.end_use(seats, command.session_id, command.reason.value)
        elif not before:
            self.must_be_over(command.session_id, command.allocation_id, Reason.LEASE_EXPIRED)
        return self.look(command.allocation_id)

    def must_be_over(self, session: str, name: str, refusal: Reason | None = None) -> None:
        """Giving back what is over is answered; what others hold is nobody else's business.

        `refusal` is what a session that is over hears instead.
        """
        seats, holder = self.find(name), self.sessions.get(session)
        node = seats.node if seats else self.gone.get(name)
        if holder is None or holder.node != node or (seats and seats.state != "QUARANTINED"):
            over = holder is not None and node is not None and not holder.open
            raise Refused(refusal if refusal and over else Reason.NOT_FOUND)

    def acknowledge(self, command: c.Acknowledge) -> Words:
        seats = self.find(command.allocation_id)
        if seats is None or command.session_id not in seats.users:
            self.must_be_over(command.session_id, command.allocation_id)
        elif command.fence >= self.fences[seats.name] and seats.state == "PROVISIONAL":
            seats.state, seats.deadline, seats.until = "ACTIVE", 0, 0
        elif command.fence >= self.fences[seats.name] and seats.state == "REVOKED":
            self.end_use(seats, command.session_id, seats.reason)
        return self.look(command.allocation_id)

    def end_use(self, seats: Seats, user: str, reason: str) -> None:
        del seats.users[user], seats.asked[user]
        if seats.users and seats.state != "REVOKED":
            self.shrink(seats, max(seats.users.values()), reason)
        elif not seats.users:
            self.rest(seats, self.end_of_rest(seats, reason))

    def end_of_rest(self, seats: Seats, reason: str) -> int:
        """Seats given back too early rest until the minimum allocation time is over (CC-21, CC-24)."""
        if seats.state == "PROVISIONAL":
            return seats.until  # nobody has held it: it goes back to where it came from
        settings = self.pools[seats.pool]
        skip = seats.skip if seats.state == "REVOKED" else reason in (settings.skip_quarantine or ())
        return 0 if skip else seats.since + (settings.minimum_allocation or 0)

    def rest(self, seats: Seats, until: int) -> None:
        seats.users, seats.asked, seats.deadline = {}, {}, 0
        self.freed.append(seats.pool)  # they may be those of the first who waits
        if self.now.civil < until:
            seats.state, seats.until = "QUARANTINED", until
        else:
            self.drop(seats)

    def drop(self, seats: Seats) -> None:
        self.seats.remove(seats)
        self.gone[seats.name] = seats.node
        self.freed.append(seats.pool)

    def shrink(self, seats: Seats, size: int, reason: str) -> None:
        rest = self.split(seats, size)
        if rest is not None:
            self.rest(rest, self.end_of_rest(seats if seats.state != "PROVISIONAL" else rest, reason))
            if rest in self.seats:
                rest.name = self.spares[seats.name].pop(0)

    def split(self, seats: Seats, size: int) -> Seats | None:
        if len(seats.lines) <= size:
            return None
        rest = copy.deepcopy(seats)
        rest.lines, seats.lines, rest.name = seats.lines[size:], seats.lines[:size], ""
        self.seats.append(rest)
        return rest

    def release(self, command: c.ReleaseAllocation) -> Words:
        """An admin's forced end: at the acknowledgement, after the last promise, or at once by force (CC-23)."""
        seats = self.find(command.allocation_id)
        if seats is None and command.allocation_id not in self.gone:
            raise Refused(Reason.NOT_FOUND)
        if seats and seats.state == "QUARANTINED":
            if not command.no_quarantine:
                raise Refused(Reason.FAILED_PRECONDITION)
            self.drop(seats)
        elif seats:
            users = [self.sessions[user] for user in seats.users]
            promises = [user.expires for user in users if user.open and self.now.lease < user.expires]
            for user in users:
                user.unheard = True
            seats.deadline = seats.deadline if seats.state == "REVOKED" else max(promises, default=0)
            seats.state, seats.until, seats.skip = "REVOKED", 0, command.no_quarantine
            if command.force or not promises:
                self.rest(seats, self.end_of_rest(seats, ""))
        return ("done",)

    # ---- what time brings ----

    def end_due(self, pool: str) -> bool:
        """Ends what is due in a pool, so that a seat is free exactly when it is due."""
        found = False
        for seats in list(self.seats):
            if seats.pool == pool and seats.state == "QUARANTINED" and self.now.civil >= seats.until:
                self.drop(seats)
                found = True
        for session in sorted(self.sessions.values(), key=lambda session: (session.expires, session.name)):
            if session.pool == pool and session.open and self.now.lease >= session.expires:
                self.end_session(session, "LEASE_EXPIRED")
                found = True
        for seats in list(self.seats):
            if seats.pool == pool and seats.deadline and self.now.lease >= seats.deadline:
                for user in seats.users if seats.state == "REVOKED" else ():
                    self.sessions[user].unheard = True
                self.rest(seats, self.end_of_rest(seats, ""))
                found = True
        return found

    def find_due(self, pool: str) -> bool:
        found = self.end_due(pool)
        self.unsettled |= {pool} if found else set()
        return found

    def expire(self, _: c.Expire) -> Words:
        for request, waiting in list(self.waiting.items()):
            if self.now.lease >= waiting[1]:
                self.leave(request, ("refused", Reason.WAIT_EXPIRED))
        for (pool, product), date in self.dates.items():
            if date is not None and self.now.civil >= date and not self.now.frozen and self.queue(pool, product):
                self.freed.append(pool)
        for pool in self.pools:
            self.end_due(pool)
        return ("expired",)

    def look_at_queues(self, command: c.ServeQueues) -> Words:
        self.freed.append(command.pool_id)
        return ("nothing",)

    # ---- waiting ----

    def queue(self, pool: str, product: str) -> list[tuple[str, str]]:
        """First come, first served per pool and product (CC-18)."""
        return [request for request, (asked, _) in self.waits_in(pool).items() if asked.product_id == product]

    def waits_in(self, pool: str) -> dict[tuple[str, str], tuple[c.CheckOut, int]]:
        return {request: waiting for request, waiting in self.waiting.items() if self.nodes[request[0]] == pool}

    def leave(self, request: tuple[str, str], answer: Words | None = None) -> None:
        self.waiting.pop(request)
        self.freed.append(self.nodes[request[0]])
        if answer is not None:
            self.served.append((request[1], answer))

    def serve(self, pool: str) -> None:
        """In the order of their numbers; who must wait keeps the lines that could serve it, and no other (CC-44)."""
        kept: set[str] = set()
        stopped: set[str] = set()  # products for which nobody else can be served
        self.looked.add(pool)
        for request, (command, deadline) in self.waits_in(pool).items():
            if request not in self.waiting or command.product_id in stopped:
                continue
            session = self.sessions[command.session_id]
            if self.now.lease >= deadline:
                answer: Words = ("refused", Reason.WAIT_EXPIRED)
            elif not session.open or self.now.lease >= session.expires:
                answer = ("refused", Reason.LEASE_EXPIRED)
            else:
                answer = self.trying(lambda: self.in_turn(request, command, kept))  # noqa: B023  # called at once
                if answer == WAITS:
                    kept |= self.could(command)
                    granting = [line for line in self.lines if self.grants(pool, line, command.product_id)]
                    if kept.issuperset(granting):
                        stopped.add(command.product_id)
                    if not self.now.frozen:
                        self.dates[pool, command.product_id] = self.next_date(granting)
                    continue
            if request in self.waiting:
                self.leave(request)
                self.freed.pop()  # who stands behind it is looked at anyway
            self.served.append((request[1], answer))

    def in_turn(self, request: tuple[str, str], command: c.CheckOut, kept: set[str]) -> Words:
        self.leave(request)
        self.freed.pop()
        return self.check_out(command, turn=kept)

    def cancel_wait(self, command: c.CancelWait) -> Words:
        request = (command.node_id, command.request_id)
        if request in self.waiting:
            self.leave(request)
        seats = self.find(self.done[request][1]) if request in self.done else None
        for user in list(seats.users if seats else ()):
            if seats and seats.asked[user] == request[1] and self.sessions[user].node == request[0]:
                self.end_use(seats, user, "ENDED")
        return ("nothing",)

    # ---- admins ----

    def move(self, command: c.MoveSeats) -> Words:
        """Only what is unused moves, and all of it or nothing (EV-5)."""
        source, target, (asked,) = command.source_id, command.target_id, command.moves
        self.find_due(source)
        if not self.counts.get((source, asked.line)):
            raise Refused(Reason.NOT_FOUND)
        if self.free(source, asked.line) < asked.count:
            raise Refused(Reason.NO_SEAT_AVAILABLE)
        self.counts[source, asked.line] -= asked.count
        self.counts[target, asked.line] = self.counts.get((target, asked.line), 0) + asked.count
        self.freed += [source, target]
        return ("done",)

    def update(self, command: c.UpdatePool) -> Words:
        old, new = self.pools[command.pool_id], command.settings
        lease, minimum = new.lease_duration or old.lease_duration, new.minimum_allocation
        self.pools[command.pool_id] = replace(old, lease_duration=lease, minimum_allocation=minimum)
        return ("done",)


def grouped(lines: list[str]) -> list[str]:
    """Seats of one licence stand together, the first that was chosen first; what is given back is the last."""
    return sorted(lines, key=lines.index)


DECIDE: Mapping[type, Callable[[Model, Any], Words]] = {
    c.OpenSession: Model.open,
    c.Heartbeat: Model.heartbeat,
    c.CloseSession: Model.close,
    c.CheckOut: Model.check_out,
    c.CheckIn: Model.check_in,
    c.Acknowledge: Model.acknowledge,
    c.ReleaseAllocation: Model.release,
    c.CancelWait: Model.cancel_wait,
    c.Expire: Model.expire,
    c.ServeQueues: Model.look_at_queues,
    c.MoveSeats: Model.move,
    c.UpdatePool: Model.update,
}


def said(answer: object) -> Words:
    """An answer of the domain in the model's words."""
    match answer:
        case c.Granted(allocation=found):
            lines = [licence for licence, seats in found.lines for _ in range(seats)]
            shown = (found.allocation_id, found.state.value, lines, answer.use.quantity)
            return ("granted", *shown, answer.remaining, answer.resumed)
        case c.Waiting():
            return ("waiting", answer.place)
        case c.Renewed():
            return ("renewed", answer.remaining, sorted(notice.allocation_id for notice in answer.notices))
        case records.Allocation():
            return ("seats", answer.allocation_id, answer.state.value)
        case Refusal():
            return ("refused", answer.reason)
        case _:
            return (NAMES[type(answer)],)


NAMES: Mapping[type, str] = {
    c.SessionOpened: "opened",
    c.SessionClosed: "session",
    c.Expired: "expired",
    c.Done: "done",
    type(None): "nothing",
}
