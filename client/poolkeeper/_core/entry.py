"""What stands in a ledger, read from bytes that anybody may have written.

An export comes from wherever it was kept, and a daemon may lie. What has not just the form of an entry or a statement
raises Unreadable with the reason; what comes out holds no number that cannot be exact in JSON, and no name that could
be taken for anything but a name.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NoReturn

_VERSION: Final = 1
_LARGEST: Final = 2**53 - 1
_NAME: Final = re.compile(r"[!-~]{1,250}")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_SHORT: Final = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 200
_SHORT.maxlevel = 2

Counts = tuple[int, int, int]
"""Count, active and quarantined of a line."""


class Unreadable(ValueError):
    """What was written has not the form of an entry or a statement; the text says why."""


@dataclass(frozen=True, slots=True)
class EntryAllocation:
    """The allocation that an entry is about, as it is after it."""

    id: str
    state: str
    quantity: int


@dataclass(frozen=True, slots=True)
class EntryBody:
    """The body of an entry."""

    sequence: int
    event: str
    at: int
    """The instant by civil time, in microseconds since 1970; 0 where none is told."""
    lines: tuple[tuple[str, Counts], ...]
    after: Mapping[str, Counts]
    over: tuple[str, ...]
    allocation: EntryAllocation | None
    split: tuple[tuple[str, int], ...]
    merged: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class StatementBody:
    """What a statement says."""

    kind: str
    pool: str
    sequence: int
    hash: bytes
    at: datetime
    holdings: Mapping[str, Counts]


def read_entry(raw: bytes) -> EntryBody:
    """The body of an entry. Raises Unreadable."""
    told = _object(_parsed(raw), "the body")
    if told.get("v") != _VERSION or isinstance(told["v"], bool):
        raise Unreadable(f"it is of format {shown(told.get('v'))}, which is not known here")
    allocation = told.get("allocation")
    after = _object(told.get("after"), "after")
    return EntryBody(
        sequence=_number(told.get("seq"), "seq"),
        event=_name(told.get("event"), "event"),
        at=_number(told.get("at", 0), "at"),
        lines=tuple(_line(line) for line in _list(told.get("lines"), "lines")),
        after={_name(licence, "after"): _counts(counts, "after") for licence, counts in after.items()},
        over=tuple(_name(licence, "over") for licence in _list(told.get("over", []), "over")),
        allocation=None if allocation is None else _allocation(_object(allocation, "allocation")),
        split=tuple(_shares(told.get("split", []), "split")),
        merged=tuple(_shares(told.get("merged", []), "merged")),
    )


def read_statement(raw: bytes) -> StatementBody:
    """What a statement says. Raises Unreadable."""
    told = _object(_parsed(raw), "the statement")
    holdings = _object(told.get("holdings"), "holdings")
    return StatementBody(
        kind=_name(told.get("kind"), "kind"),
        pool=_name(told.get("pool"), "pool"),
        sequence=_number(told.get("sequence"), "sequence"),
        hash=_hash(told.get("hash")),
        at=instant(_number(told.get("time_us", 0), "time_us")),
        holdings={_name(licence, "holdings"): _holding(counts) for licence, counts in holdings.items()},
    )


def instant(microseconds: int) -> datetime:
    """The instant, in UTC. Raises Unreadable for one before 1970 or beyond the calendar."""
    try:
        found = _EPOCH + timedelta(microseconds=microseconds)
    except OverflowError:
        found = datetime.min.replace(tzinfo=UTC)
    if found < _EPOCH:
        raise Unreadable(f"{microseconds} is not an instant")
    return found


def shown(value: object) -> str:
    """A value that others wrote, in quotes where it is a text, and short."""
    return _SHORT.repr(value)


def _parsed(raw: bytes) -> object:
    try:
        return json.loads(raw.decode(), object_pairs_hook=_pairs, parse_float=_no_number, parse_constant=_no_number)
    except RecursionError:
        raise Unreadable("it is nested too deeply") from None
    except Unreadable:
        raise
    except ValueError as problem:
        raise Unreadable(f"it is not JSON: {problem}") from problem


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Unreadable("it says something twice")
    return found


def _no_number(text: str) -> NoReturn:
    raise Unreadable(f"{shown(text)} is not a whole number")


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Unreadable(f"{what} is {shown(value)} and not an object")
    return value


def _list(value: object, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise Unreadable(f"{what} is {shown(value)} and not a list")
    return value


def _number(value: object, what: str) -> int:
    # A truth value is an int too.
    if type(value) is not int or not -_LARGEST <= value <= _LARGEST:
        raise Unreadable(f"{what} is {shown(value)} and not a whole number of at most 53 bits")
    return value


def _name(value: object, what: str) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise Unreadable(f"{what} is {shown(value)} and not a name")
    return value


def _hash(value: object) -> bytes:
    try:
        return bytes.fromhex(_name(value, "hash"))
    except ValueError as problem:
        raise Unreadable(f"hash is {shown(value)} and not in hexadecimal digits") from problem


def _counts(value: object, what: str) -> Counts:
    match value:
        case [count, active, quarantined]:
            return _number(count, what), _number(active, what), _number(quarantined, what)
    raise Unreadable(f"{what} has {shown(value)} where three numbers belong")


def _holding(value: object) -> Counts:
    told = _object(value, "holdings")
    return _counts([told.get("count"), told.get("active"), told.get("quarantined")], "holdings")


def _line(value: object) -> tuple[str, Counts]:
    match value:
        case [licence, *counts]:
            return _name(licence, "lines"), _counts(counts, "lines")
    raise Unreadable(f"lines has {shown(value)} where a licence and three numbers belong")


def _shares(value: object, what: str) -> Iterator[tuple[str, int]]:
    for share in _list(value, what):
        match share:
            case [name, seats]:
                yield _name(name, what), _number(seats, what)
            case _:
                raise Unreadable(f"{what} has {shown(share)} where an allocation and its seats belong")


def _allocation(told: dict[str, Any]) -> EntryAllocation:
    return EntryAllocation(
        id=_name(told.get("id"), "allocation"),
        state=_name(told.get("state"), "state"),
        quantity=_number(told.get("quantity"), "quantity"),
    )
