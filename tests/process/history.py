"""What callers were told and believed, held against what cannot be: a small model of seats with a ledger.

Every instant is of one clock that all callers share. Each check gives a sentence for each thing that is wrong.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True, kw_only=True)
class Belief:
    """A caller takes itself for the holder of seats: from being told to asking to give them back, or its deadline."""

    holder: str
    allocation: str
    since: float
    until: float
    seats: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of one request id, however often it was sent; the allocation is empty when it was denied."""

    caller: str
    request_id: str
    asked_at: float
    sent_at: float
    told_at: float
    allocation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Return:
    """A check-in, once it was answered."""

    caller: str
    allocation: str
    sent_at: float
    told_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A ledger entry about an allocation."""

    event: str
    allocation: str


def most_believed(beliefs: Iterable[Belief]) -> tuple[int, float]:
    """The most seats that were believed held at one instant, and the first such instant; 0 when there are none."""
    changes = sorted(
        change
        for belief in beliefs
        if belief.until > belief.since
        # At one instant the ends come first: whoever has let go does not hold.
        for change in ((belief.until, 0, -belief.seats), (belief.since, 1, belief.seats))
    )
    held = most = 0
    at = 0.0
    for instant, _, seats in changes:
        held += seats
        if held > most:
            most, at = held, instant
    return most, at


def oversold(beliefs: Iterable[Belief], seats: int) -> Iterator[str]:
    """More seats were believed held than there are (CC-11, CC-16)."""
    most, at = most_believed(beliefs)
    if most > seats:
        yield f"{most} of {seats} seats were believed held at {at:.3f}"


def held_twice(beliefs: Iterable[Belief]) -> Iterator[str]:
    """One allocation had two holders at the same time."""
    by_allocation = defaultdict(list)
    for belief in beliefs:
        by_allocation[belief.allocation].append(belief)
    for allocation, some in by_allocation.items():
        some.sort(key=lambda belief: belief.since)
        for one, other in pairwise(some):
            if one.holder != other.holder and other.since < one.until:
                yield f"{allocation} was believed held by {one.holder} and {other.holder}"


def effects(answers: Iterable[Answer]) -> Iterator[str]:
    """A request id had two effects, or two requests the same one (CC-13)."""
    by_request: dict[tuple[str, str], str] = {}
    by_allocation: dict[str, tuple[str, str]] = {}
    for answer in answers:
        request = (answer.caller, answer.request_id)
        if by_request.setdefault(request, answer.allocation) != answer.allocation:
            yield f"request {answer.request_id} made {by_request[request]!r} and {answer.allocation!r}"
        if answer.allocation and by_allocation.setdefault(answer.allocation, request) != request:
            yield f"{answer.allocation} was given for {by_allocation[answer.allocation][1]} and {answer.request_id}"


def lost(
    answers: Iterable[Answer], returns: Iterable[Return], steps: Iterable[Step], held: Iterable[str]
) -> Iterator[str]:
    """Something that was answered is not so: a grant without its entry or its seat, a check-in undone (CC-14)."""
    begun, ended = _ledgered(steps)
    present = set(held)
    returned = {one.allocation for one in returns}
    granted = {answer.allocation for answer in answers if answer.allocation}
    for allocation in sorted(granted | returned):
        if allocation not in begun:
            yield f"{allocation} was granted and is not in the ledger"
        elif allocation in returned and (allocation not in ended or allocation in present):
            yield f"{allocation} was checked in and is held"
        elif allocation not in returned and (allocation in ended or allocation not in present):
            yield f"{allocation} was not checked in and is not held any more: {ended.get(allocation, 'no entry')}"


def unknown(answers: Iterable[Answer], steps: Iterable[Step], held: Iterable[str]) -> Iterator[str]:
    """Seats that were taken for nobody: when every request was answered, each of them was told to somebody (CC-13)."""
    begun, _ = _ledgered(steps)
    told = {answer.allocation for answer in answers}
    for allocation in sorted((begun | set(held)) - told):
        yield f"{allocation} was taken and nobody was told"


def out_of_order(answers: Iterable[Answer], steps: Iterable[Step]) -> Iterator[str]:
    """A grant stands in the ledger before another that was told before it was even asked for."""
    by_allocation = {answer.allocation: answer for answer in answers if answer.allocation}
    latest: Answer | None = None
    for step in steps:
        answer = by_allocation.get(step.allocation)
        if answer is None or step.event != "CHECKED_OUT":
            continue
        if latest is not None and answer.told_at < latest.asked_at:
            yield f"{answer.allocation} was told before {latest.allocation} was asked for, and stands after it"
        if latest is None or answer.asked_at > latest.asked_at:
            latest = answer


def _ledgered(steps: Iterable[Step]) -> tuple[set[str], dict[str, str]]:
    begun: set[str] = set()
    ended: dict[str, str] = {}
    for step in steps:
        if step.event == "CHECKED_OUT":
            begun.add(step.allocation)
        elif step.event in {"CHECKED_IN", "EXPIRED", "RELEASED", "RECLAIMED"}:
            ended[step.allocation] = step.event
    return begun, ended


def problems(
    *,
    seats: int,
    beliefs: list[Belief],
    answers: list[Answer],
    returns: list[Return],
    steps: list[Step],
    held: set[str],
) -> list[str]:
    """Everything that is wrong with a finished history, in which every request was answered."""
    return [
        *oversold(beliefs, seats),
        *held_twice(beliefs),
        *effects(answers),
        *lost(answers, returns, steps, held),
        *unknown(answers, steps, held),
        *out_of_order(answers, steps),
    ]
