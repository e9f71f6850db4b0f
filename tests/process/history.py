"""What clients asked, were told and believed, held against what cannot be: a small model of seats with a ledger.

Every client process writes down what happens to it as it happens (`tests.process.journal`). `problems` decides whether
all of that, the daemon's ledger and what the daemon lists as held fit together. Instants are of one clock that all
processes share. An instant that nobody saw, that of a ledger entry, lies between two that somebody did.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any, Final, TypeAlias, TypeVar

E = TypeVar("E", bound="Event")

#: Seats by the licence line that they are of.
Lines: TypeAlias = Mapping[str, int]

_FULL: Final = "NO_SEAT_AVAILABLE"
_EXPIRED: Final = "LEASE_EXPIRED"
#: What may end a promise before its time.
_TAKEN_BACK: Final = frozenset({"REVOKED", "NODE_REVOKED", "NODE_REBOUND"})
_BEGINS: Final = "CHECKED_OUT"
_ENDS: Final = frozenset({"CHECKED_IN", "EXPIRED", "RELEASED", "RECLAIMED"})

# ---- what a client writes down ----


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened to a client, in one session of a node; a session is NODE/NUMBER."""

    session: str

    @property
    def node(self) -> str:
        """Whose session it is."""
        return self.session.partition("/")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked(Event):
    """A check-out is about to be sent for the first time."""

    request_id: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted(Event):
    """A check-out was answered with seats: from `told` on the client takes itself for their holder, until `until`.

    `sent` is when the attempt was sent that was answered.
    """

    request_id: str
    sent: float
    told: float
    until: float
    allocation: str
    lines: Lines
    shared: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused(Event):
    """A check-out of so many seats was refused, for good."""

    request_id: str
    sent: float
    told: float
    reason: str
    seats: int = 1
    product: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued(Event):
    """A check-out was told that it waits."""

    request_id: str
    told: float
    product: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewed(Event):
    """A heartbeat was answered: everything in the session is believed until then."""

    sent: float
    told: float
    until: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Left(Event):
    """From now on the client no longer takes itself for the holder, and asks to give back."""

    allocation: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Returned(Event):
    """A check-in was answered."""

    request_id: str
    sent: float
    told: float
    allocation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost(Event):
    """The client was told that an allocation, or all of its session's when none is named, is its own no more."""

    told: float
    reason: str
    allocation: str = ""


# ---- what the daemon says ----


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A ledger entry: what became of an allocation, and how many seats were free after it in the lines it names."""

    event: str
    allocation: str = ""
    node: str = ""
    seats: int = 0
    free: Lines = field(default_factory=dict)


def step_of(body: Mapping[str, Any], pool: str) -> Step:
    """The step that a ledger entry's body tells."""
    free = {line: count - active - quarantined for line, (count, active, quarantined) in body["after"].items()}
    about = body.get("allocation")
    if about is None:
        return Step(event=body["event"], free=free)
    return Step(
        event=body["event"],
        allocation=f"{pool}/allocations/{about['id']}",
        node=about["node"],
        seats=about["quantity"],
        free=free,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A licence line in the pool."""

    seats: int
    product: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """All that happened in one pool: what its clients wrote down, and what the daemon said at `read_at`, the end."""

    lines: Mapping[str, Line]
    events: tuple[Event, ...]
    steps: tuple[Step, ...]
    held: frozenset[str]
    read_at: float = math.inf

    def of(self, kind: type[E]) -> list[E]:
        """The events of a kind."""
        return [event for event in self.events if isinstance(event, kind)]


# ---- what clients believed ----


@dataclass(frozen=True, slots=True, kw_only=True)
class Belief:
    """A session takes itself for the holder of seats, from one instant to another."""

    session: str
    allocation: str
    since: float
    until: float
    lines: Lines
    shared: bool = False


def beliefs(events: Iterable[Event]) -> list[Belief]:
    """Who believed to hold what, and when: from each grant to asking to give back or hearing of the loss.

    Nobody believes beyond the newest promise; if a later renewal goes well, the belief begins again with its answer.
    """
    promises: dict[str, list[tuple[float, float]]] = defaultdict(list)
    turns: dict[tuple[str, str], list[tuple[float, Granted | None]]] = defaultdict(list)
    ends: dict[str, float] = {}
    for event in events:
        match event:
            case Granted():
                promises[event.session].append((event.told, event.until))
                turns[event.session, event.allocation].append((event.told, event))
            case Renewed():
                promises[event.session].append((event.told, event.until))
            case Left():
                turns[event.session, event.allocation].append((event.at, None))
            case Lost(allocation=""):
                ends[event.session] = min(event.told, ends.get(event.session, math.inf))
            case Lost():
                turns[event.session, event.allocation].append((event.told, None))
            case _:
                pass
    spans = {session: _merged(some) for session, some in promises.items()}
    found = []
    for (session, allocation), some in turns.items():
        some.sort(key=lambda turn: turn[0])
        some.append((math.inf, None))
        for (since, granted), (until, _) in pairwise(some):
            if granted is None:
                continue
            last = min(until, ends.get(session, math.inf))
            found += [
                Belief(
                    session=session,
                    allocation=allocation,
                    since=max(since, begin),
                    until=min(last, end),
                    lines=granted.lines,
                    shared=granted.shared,
                )
                for begin, end in spans[session]
                if max(since, begin) < min(last, end)
            ]
    return found


def _merged(spans: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Spans that touch made one, in order; of none that was over before it began."""
    found: list[tuple[float, float]] = []
    for begin, end in sorted(spans):
        if end <= begin:
            continue
        if found and begin <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((begin, end))
    return found


def most_believed(some: Iterable[Belief], line: str | None = None) -> tuple[int, float]:
    """The most seats that were believed held at one instant, of one line or of all, and the first such instant.

    An allocation with several users has the seats of the one that needs most.
    """
    by_allocation = defaultdict(list)
    for belief in some:
        by_allocation[belief.allocation].append(belief)
    changes = [change for shared in by_allocation.values() for change in _sizes(shared, line)]
    # At one instant the ends come first: whoever has let go does not hold.
    changes.sort()
    held = most = 0
    at = 0.0
    for instant, change in changes:
        held += change
        if held > most:
            most, at = held, instant
    return most, at


def _sizes(some: Iterable[Belief], line: str | None) -> Iterator[tuple[float, int]]:
    """When one allocation's believed size changes, and by how much."""
    turns = []
    for belief in some:
        seats = sum(belief.lines.values()) if line is None else belief.lines.get(line, 0)
        turns += [(belief.until, 0, seats), (belief.since, 1, seats)]
    running: list[int] = []
    size = 0
    for instant, begins, seats in sorted(turns):
        if begins:
            running.append(seats)
        else:
            running.remove(seats)
        new = max(running, default=0)
        if new != size:
            yield instant, new - size
        size = new


# ---- the checks; each gives a sentence for each thing that is wrong ----


def oversold(history: History) -> Iterator[str]:
    """More seats of a line, or of all, were believed held than there are (CC-11, CC-16)."""
    held = beliefs(history.events)
    for line, there in history.lines.items():
        most, at = most_believed(held, line)
        if most > there.seats:
            yield f"{most} of {there.seats} seats of {line} were believed held at {at:.3f}"
    for belief in held:
        for line in belief.lines.keys() - history.lines.keys():
            yield f"{belief.allocation} is of {line}, which is not in the pool"


def held_twice(history: History) -> Iterator[str]:
    """An allocation that nobody shares had two holders at the same time."""
    by_allocation = defaultdict(list)
    for belief in beliefs(history.events):
        if not belief.shared:
            by_allocation[belief.allocation].append(belief)
    for allocation, some in by_allocation.items():
        some.sort(key=lambda belief: (belief.since, belief.until))
        longest = some[0]
        for belief in some[1:]:
            if belief.session != longest.session and belief.since < longest.until:
                yield f"{allocation} was believed held by {longest.session} and {belief.session}"
            longest = max(longest, belief, key=lambda one: one.until)


def effects(history: History) -> Iterator[str]:
    """A request id had two effects, or two requests that share nothing the same one (CC-13)."""
    made: dict[tuple[str, str], str] = {}
    asked_by: dict[str, tuple[str, str]] = {}
    for granted in history.of(Granted):
        request = (granted.node, granted.request_id)
        if made.setdefault(request, granted.allocation) != granted.allocation:
            yield f"request {granted.request_id} made {made[request]} and {granted.allocation}"
        if not granted.shared and asked_by.setdefault(granted.allocation, request) != request:
            first = asked_by[granted.allocation][1]
            yield f"{granted.allocation} was given for {first} and {granted.request_id}"
    ended: dict[tuple[str, str], str] = {}
    for returned in history.of(Returned):
        request = (returned.node, returned.request_id)
        if ended.setdefault(request, returned.allocation) != returned.allocation:
            yield f"request {returned.request_id} ended {ended[request]} and {returned.allocation}"
        if request in made:
            yield f"request {returned.request_id} made {made[request]} and ended {returned.allocation}"


def lives(history: History) -> Iterator[str]:
    """The ledger itself lets an allocation begin or end twice, or end before it began, or says what is not listed."""
    state: dict[str, str] = {}
    for step in history.steps:
        before = state.get(step.allocation)
        if step.event == _BEGINS:
            if before is not None:
                yield f"{step.allocation} begins again after {before}"
            state[step.allocation] = step.event
        elif step.event in _ENDS:
            if before != _BEGINS:
                yield f"{step.allocation} ends by {step.event} after {before or 'nothing'}"
            state[step.allocation] = step.event
    held = {allocation for allocation, event in state.items() if event == _BEGINS}
    for allocation in sorted(held - history.held):
        yield f"{allocation} is held by the ledger and not listed"
    for allocation in sorted(history.held - held):
        yield f"{allocation} is listed and not held by the ledger"


def lost(history: History) -> Iterator[str]:
    """Something that was answered is not so: a grant without its entry or its seat, a check-in undone (CC-14)."""
    begun, ended = _ledgered(history.steps)
    certain = not _open(history)
    for allocation, users in _uses(history).items():
        if allocation not in begun:
            yield f"{allocation} was granted and is not in the ledger"
            continue
        if (
            (certain or not users[0].shared)
            and all(use.returned < math.inf for use in users)
            and (allocation not in ended or allocation in history.held)
        ):
            yield f"{allocation} was checked in and is held"
        if any(use.believes(history.read_at) for use in users) and (
            allocation in ended or allocation not in history.held
        ):
            yield f"{allocation} was not checked in and is not held any more: {ended.get(allocation, 'no entry')}"
        if ended.get(allocation) == "CHECKED_IN" and not any(use.left for use in users):
            yield f"{allocation} is checked in and nobody asked for that"
        size = sum(users[0].lines.values())
        if not users[0].shared and begun[allocation].seats != size:
            yield f"{allocation} has {size} seats by its answer and {begun[allocation].seats} by the ledger"
    for returned in history.of(Returned):
        if returned.allocation not in begun:
            yield f"{returned.allocation} was checked in and is not in the ledger"


def unknown(history: History) -> Iterator[str]:
    """Seats that were taken for nobody: only a request that was never answered may have had an effect (CC-13)."""
    begun, _ = _ledgered(history.steps)
    told = {granted.allocation for granted in history.of(Granted)}
    most: dict[str, int] = defaultdict(int)
    for node, _ in _open(history):
        most[node] += 1
    for allocation, step in begun.items():
        if allocation in told:
            continue
        most[step.node] -= 1
        if most[step.node] < 0:
            yield f"{allocation} was taken and nobody was told"


def cut_short(history: History) -> Iterator[str]:
    """A promise was taken back: a later answer promises less, or the end is told before it has come (CC-16)."""
    by_session: dict[str, list[Granted | Renewed]] = defaultdict(list)
    for event in history.events:
        if isinstance(event, Granted | Renewed):
            by_session[event.session].append(event)
    for session, promises in by_session.items():
        # Each was given between its sending and its answer: it lasts no longer than if it was given at the answer.
        heard = sorted(promises, key=lambda promise: promise.told)
        place, best = 0, -math.inf
        for promise in sorted(promises, key=lambda promise: promise.sent):
            while place < len(heard) and heard[place].told <= promise.sent:
                best = max(best, heard[place].until)
                place += 1
            longest = promise.until + promise.told - promise.sent
            if longest < best:
                yield f"{session} was promised until {best:.3f} and then until {longest:.3f} at most"
    for over in history.of(Lost):
        promised = max(
            (promise.until for promise in by_session[over.session] if promise.told <= over.told), default=-math.inf
        )
        if over.reason not in _TAKEN_BACK and over.told < promised:
            yield f"{over.session} was told at {over.told:.3f} of the end of what it was promised until {promised:.3f}"


def out_of_order(history: History) -> Iterator[str]:
    """The ledger's order cannot have been: an entry that was made for sure after a later one (CC-16, CC-25).

    A lease that ran out before its holder had ceased to believe in it shows here, or as a seat with two holders.
    """
    latest, of = -math.inf, 0
    whens = _whens(history)
    for place, (earliest, last) in enumerate(whens):
        if last < latest:
            one, other = history.steps[of], history.steps[place]
            yield (
                f"{other.event} of {other.allocation} was told before {one.event} of {one.allocation} could be, "
                "and stands after it"
            )
        if earliest > latest:
            latest, of = earliest, place


def denied_in_vain(history: History) -> Iterator[str]:
    """A check-out was refused for want of seats while there were enough at every instant at which it may have been."""
    whens = _whens(history)
    # The position after step p is possible for an instant x if no step up to p was later and none after p earlier.
    latest = list(accumulate((earliest for earliest, _ in whens), max))
    soonest = list(accumulate(reversed([last for _, last in whens]), min))[::-1]
    free: list[dict[str, int]] = []
    for step in history.steps:
        free.append((free[-1] if free else {}) | dict(step.free))
    if history.of(Queued):
        return  # Where somebody waits, seats may be free and yet not for whoever comes later.
    refusals = [one for one in history.of(Refused) if one.reason == _FULL]
    first = last = 0
    for refused in sorted(refusals, key=lambda one: one.sent):
        lines = [line for line, there in history.lines.items() if there.product in {"", refused.product}]
        while first < len(whens) - 1 and soonest[first + 1] < refused.sent:
            first += 1
        last = first
        most: list[int] = []
        while last < len(whens) and latest[last] <= refused.told:
            most.append(sum(free[last].get(line, 0) for line in lines))
            last += 1
        if most and min(most) >= refused.seats:
            yield f"request {refused.request_id} was refused with {min(most)} seats free"


def overtaken(history: History) -> Iterator[str]:
    """Who was told that it waits got its seats after one who asked for the same only then (CC-18)."""
    place = {step.allocation: at for at, step in enumerate(history.steps) if step.event == _BEGINS}
    asked = {(one.node, one.request_id): one.at for one in history.of(Asked)}
    granted = {(one.node, one.request_id): one for one in history.of(Granted) if one.allocation in place}
    first: dict[tuple[str, str], Queued] = {}
    for queued in sorted(history.of(Queued), key=lambda one: one.told):
        first.setdefault((queued.node, queued.request_id), queued)
    waits = [(queued, granted[request]) for request, queued in first.items() if request in granted]
    for queued, one in waits:
        for later, other in waits:
            request = (later.node, later.request_id)
            if (
                later.product == queued.product
                and asked.get(request, -math.inf) > queued.told
                and place[other.allocation] < place[one.allocation]
            ):
                yield f"request {later.request_id} was asked after {queued.request_id} waited, and was served before it"


_CHECKS: Final = (
    oversold,
    held_twice,
    effects,
    lives,
    lost,
    unknown,
    cut_short,
    out_of_order,
    denied_in_vain,
    overtaken,
)


def problems(history: History) -> list[str]:
    """Everything that is wrong with a history."""
    return [found for check in _CHECKS for found in check(history)]


# ---- what the checks share ----


@dataclass(slots=True)
class _Use:
    """What one session had of an allocation: until when it believed, and whether it gave it back.

    Of a shared one a session may have several uses, one after the other; then this is about the last.
    """

    lines: Lines
    shared: bool
    asked: float
    told: float
    again: float
    over: float = -math.inf
    left: bool = False
    returned: float = math.inf

    def believes(self, at: float) -> bool:
        """Whether it holds the allocation at that instant, the last that counts."""
        return not self.left and self.over > at


def _uses(history: History) -> dict[str, list[_Use]]:
    asked = {(one.node, one.request_id): one.at for one in history.of(Asked)}
    by_session: dict[tuple[str, str], _Use] = {}
    for granted in history.of(Granted):
        at = asked.get((granted.node, granted.request_id), -math.inf)
        new = _Use(lines=granted.lines, shared=granted.shared, asked=at, told=granted.told, again=granted.told)
        use = by_session.setdefault((granted.session, granted.allocation), new)
        use.asked, use.told, use.again = min(use.asked, at), min(use.told, granted.told), max(use.again, granted.told)
    for belief in beliefs(history.events):
        use = by_session[belief.session, belief.allocation]
        use.over = max(use.over, belief.until)
    for left in history.of(Left):
        ended = by_session.get((left.session, left.allocation))
        if ended is not None and left.at >= ended.again:
            ended.left = True
    for returned in history.of(Returned):
        ended = by_session.get((returned.session, returned.allocation))
        if ended is not None and returned.told >= ended.again:
            ended.returned = min(ended.returned, returned.told)
    found: dict[str, list[_Use]] = defaultdict(list)
    for (_, allocation), use in by_session.items():
        found[allocation].append(use)
    return found


def _open(history: History) -> set[tuple[str, str]]:
    """The requests of which nobody knows what became."""
    answered = {(granted.node, granted.request_id) for granted in history.of(Granted)}
    # Who is told that its session is over does not learn what had become of the request before that.
    answered |= {(one.node, one.request_id) for one in history.of(Refused) if one.reason != _EXPIRED}
    return {(asked.node, asked.request_id) for asked in history.of(Asked)} - answered


def _whens(history: History) -> list[tuple[float, float]]:
    """For each step the earliest and the latest instant at which it can have been made, by what clients saw."""
    uses = _uses(history)
    found = []
    for step in history.steps:
        users = uses.get(step.allocation, [])
        # Who was never answered may have been the first to share it, or the last.
        alone = not any(use.shared for use in users)
        earliest, latest = -math.inf, history.read_at
        if users and step.event == _BEGINS:
            earliest = min(use.asked for use in users) if alone else earliest
            latest = min(latest, *(use.told for use in users))
        elif users and step.event in {"CHECKED_IN", "EXPIRED"}:
            earliest = max(use.over for use in users)
            if step.event == "CHECKED_IN" and alone:
                latest = min(latest, *(use.returned for use in users))
        found.append((earliest, latest))
    return found


def _ledgered(steps: Iterable[Step]) -> tuple[dict[str, Step], dict[str, str]]:
    begun: dict[str, Step] = {}
    ended: dict[str, str] = {}
    for step in steps:
        if step.event == _BEGINS:
            begun.setdefault(step.allocation, step)
        elif step.event in _ENDS:
            ended[step.allocation] = step.event
    return begun, ended
