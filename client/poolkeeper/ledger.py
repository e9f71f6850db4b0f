"""Checking an exported ledger offline, with nothing but the file and the installation's public keys.

It shows, without trust in the daemon, that no entry was changed, left out or cut off, that the signed
statements fit, and that replaying the entries never holds more seats than there were (CC-25).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from poolkeeper._core.entry import Counts, EntryBody, StatementBody, Unreadable, read_entry, read_statement, shown
from poolkeeper.v1 import admin_pb2

_MOST_PROBLEMS: Final = 1000

_BEGINS: Final = frozenset({"CHECKED_OUT", "MIGRATED_IN"})
_KEEPS: Final = frozenset({"RESIZED", "REVOKED"})
_ENDS: Final = frozenset({"CHECKED_IN", "EXPIRED", "RELEASED", "RECLAIMED", "MIGRATED_OUT"})
_WITHOUT_ALLOCATION: Final = frozenset(
    {"POOL_CREATED", "PURCHASED", "MOVED_IN", "MOVED_OUT", "POOL_UPDATED", "POOL_CLOSED", "EPOCH_BEGUN"}
)
_READOPTED: Final = "READOPTED"
"""Granted after a backup, and proven by its holder after the restore: it may take more than there is."""
_LIVE: Final = frozenset({"ACTIVE", "PROVISIONAL", "REVOKED"})


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that does not fit."""

    sequence: int
    """Of the entry or statement; 0 when it is about the export as a whole."""
    text: str

    def __str__(self) -> str:
        """One line for a person."""
        return f"entry {self.sequence}: {self.text}" if self.sequence else self.text


@dataclass(frozen=True, slots=True)
class Report:
    """What the check found."""

    pool: str
    """The full name of the pool that the ledger is of; empty when no statement that the keys prove says it."""
    entries: int
    checkpoints: int
    head_sequence: int
    """The last entry; 0 when there is none."""
    as_of: datetime | None
    """When the daemon signed the head, in UTC; None without one."""
    problems: tuple[Problem, ...]
    """At most a thousand."""

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.problems


@dataclass(slots=True)
class HeldSeats:
    """What an allocation holds by the ledger: its state, and its seats in use and in quarantine."""

    state: str
    active: int = 0
    quarantined: int = 0


def parse_export(text: Iterable[str]) -> Iterable[admin_pb2.ExportLedgerResponse]:
    """The items of an export file: one ExportLedgerResponse in proto JSON on each line.

    Raises ValueError for a line that is none.
    """
    from google.protobuf import json_format  # noqa: PLC0415 - slow to load, and only files need it.

    for number, line in enumerate(text, start=1):
        if not line.strip():
            continue
        try:
            yield json_format.Parse(line, admin_pb2.ExportLedgerResponse())
        except RecursionError:
            raise ValueError(f"line {number} is not an item of a ledger: it is nested too deeply") from None
        # The parser lets some of what is underneath it through.
        except (json_format.ParseError, ValueError, TypeError, AttributeError) as problem:
            raise ValueError(f"line {number} is not an item of a ledger: {shown(str(problem))}") from problem


def parse_keys(keys: Mapping[str, str]) -> dict[str, bytes]:
    """Public keys by key id, from base64. Raises ValueError."""
    try:
        return {key_id: base64.b64decode(text, validate=True) for key_id, text in keys.items()}
    except binascii.Error as problem:
        raise ValueError(f"a key is not base64: {problem}") from problem


def verify_export(
    items: Iterable[admin_pb2.ExportLedgerResponse],
    keys: Mapping[str, bytes],
    *,
    pool: str | None = None,
) -> Report:
    """What checking an export found; a ledger of any length is read once and not kept.

    `items` are the answers of ExportLedger in their order, or those of `parse_export`. `keys` are the
    installation's raw public keys, 32 bytes each, by key id; take them from where the daemon cannot
    reach. `pool` is the full name of the pool that the ledger must be of; otherwise the first
    statement says it.
    """
    ledger = LedgerReplay(keys, pool=pool)
    for item in items:
        ledger.add(item)
    return ledger.report()


class LedgerReplay:
    """The replay of one ledger, item by item, for whoever compares it with more than an export holds.

    `keys` and `pool` are those of `verify_export`.
    """

    def __init__(self, keys: Mapping[str, bytes], *, pool: str | None = None) -> None:
        self._keys = keys
        self._pool = pool
        self._told = ""
        self._first: admin_pb2.LedgerEntry | None = None
        self._sequence = 0
        self._hash: bytes | None = _genesis(pool) if pool else None
        self._checkpoints = 0
        self._head: datetime | None = None
        self._ended = False
        self._problems: list[Problem] = []
        self._holdings: dict[str, list[int]] = {}
        self._allocations: dict[str, HeldSeats] = {}
        self._restored = False

    @property
    def sequence(self) -> int:
        """The number of the newest entry; 0 when there is none."""
        return self._sequence

    @property
    def head(self) -> bytes:
        """The hash of the newest entry; of the pool's name when there is none."""
        return self._hash or b""

    @property
    def holdings(self) -> Mapping[str, Sequence[int]]:
        """Count, active and quarantined of each licence after the newest entry."""
        return self._holdings

    @property
    def held(self) -> Mapping[str, HeldSeats]:
        """The allocations that hold seats after the newest entry, by id."""
        return self._allocations

    @property
    def checkpoints(self) -> int:
        """How many signed checkpoints fitted."""
        return self._checkpoints

    @property
    def problems(self) -> Sequence[Problem]:
        """What does not fit, so far; at most a thousand."""
        return self._problems

    def add(self, item: admin_pb2.ExportLedgerResponse) -> None:
        """Checks the next item and replays it."""
        kind = item.WhichOneof("item")
        if kind == "entry":
            self.entry(item.entry)
        elif kind == "statement":
            self.statement(item.statement)
        else:
            self.find("an item is neither entry nor statement")

    def find(self, text: str, *, sequence: int = 0) -> None:
        """Records something that does not fit."""
        if len(self._problems) < _MOST_PROBLEMS:
            self._problems.append(Problem(sequence=sequence, text=text))

    def report(self) -> Report:
        """The result, once everything was read."""
        if not self._ended:
            self.find("the export does not end with a signed head: its tail may be cut off")
        if self._first is not None:
            self.find("no statement says which pool the ledger is of, so its beginning is unproven")
        return Report(
            pool=self._told,
            entries=self._sequence,
            checkpoints=self._checkpoints,
            head_sequence=self._sequence,
            as_of=self._head,
            problems=tuple(self._problems),
        )

    def entry(self, entry: admin_pb2.LedgerEntry) -> None:
        """Checks the chain at an entry and replays it."""
        self._ended = False
        sequence = entry.sequence
        if sequence != self._sequence + 1:
            self.find(f"follows entry {self._sequence}: entries are missing", sequence=sequence)
        if self._hash is None:
            # The chain begins with the pool's name, which the first statement will tell.
            self._first = entry
        elif hashlib.sha256(self._hash + entry.body).digest() != entry.hash:
            self.find("its hash does not follow from its body and the entry before", sequence=sequence)
        self._hash = entry.hash
        self._sequence = sequence
        try:
            body = read_entry(entry.body)
        except Unreadable as problem:
            self.find(f"its body cannot be read: {problem}", sequence=sequence)
            return
        if body.sequence != sequence:
            self.find(f"calls itself entry {body.sequence}", sequence=sequence)
        self._replay(sequence, body)

    def statement(self, statement: admin_pb2.LedgerStatement) -> None:
        """Checks a checkpoint or the head against the chain and the replay."""
        at = self._sequence
        key = self._keys.get(statement.key_id)
        if key is None:
            self.find(f"a statement is signed with the unknown key {shown(statement.key_id)}", sequence=at)
            return
        try:
            Ed25519PublicKey.from_public_bytes(key).verify(
                statement.signature, b"poolkeeper-statement-v1\0" + statement.payload
            )
        except (InvalidSignature, ValueError):
            self.find("a statement's signature is wrong", sequence=at)
            return
        try:
            self._compare(read_statement(statement.payload))
        except Unreadable as problem:
            self.find(f"a statement cannot be read: {problem}", sequence=at)

    def _compare(self, told: StatementBody) -> None:
        at = self._sequence
        self._anchor(told.pool)
        if told.sequence != at:
            self.find(f"a statement is about entry {told.sequence}", sequence=at)
        if told.hash != self._hash:
            self.find("a statement's hash is not the chain's", sequence=at)
        self._compare_holdings(told.holdings)
        if told.kind == "head":
            self._ended = True
            self._head = told.at
        elif told.kind == "checkpoint":
            self._checkpoints += 1
        else:
            self.find(f"a statement is a {told.kind!r}", sequence=at)

    def _anchor(self, pool: str) -> None:
        """Ties the chain to the pool that a statement is about."""
        self._told = self._told or pool
        if self._pool is None:
            self._pool = pool
        elif pool != self._pool:
            self.find(f"a statement is about {pool}, not {self._pool}", sequence=self._sequence)
        if self._hash is None:
            self._hash = _genesis(pool)
        if self._first is not None:
            first, self._first = self._first, None
            if hashlib.sha256(_genesis(pool) + first.body).digest() != first.hash:
                self.find("is not the beginning of this pool's ledger", sequence=first.sequence)

    def _compare_holdings(self, told: Mapping[str, Counts]) -> None:
        at = self._sequence
        for licence, counts in told.items():
            found = tuple(self._holdings.get(licence, (0, 0, 0)))
            if counts != found:
                self.find(f"a statement says {_words(counts)} of {licence}, the replay {_words(found)}", sequence=at)
        for licence, seats in self._holdings.items():
            if any(seats) and licence not in told:
                self.find(f"a statement leaves {licence} out", sequence=at)

    def _replay(self, sequence: int, body: EntryBody) -> None:
        touched: dict[str, Counts] = {}
        for licence, (count, active, quarantined) in body.lines:
            before = touched.get(licence, (0, 0, 0))
            touched[licence] = (before[0] + count, before[1] + active, before[2] + quarantined)
        for licence, delta in touched.items():
            holding = self._holdings.setdefault(licence, [0, 0, 0])
            holding[:] = [old + new for old, new in zip(holding, delta, strict=True)]
            worse = delta[1] + delta[2] > delta[0]
            may_be_over = licence in body.over and (not worse or (self._restored and body.event == _READOPTED))
            self._check_holding(sequence, licence, holding, may_be_over=may_be_over)
        for licence in touched.keys() | body.after.keys():
            found = tuple(self._holdings.get(licence, (0, 0, 0)))
            told = body.after.get(licence)
            if told != found:
                said = "nothing" if told is None else _words(told)
                self.find(f"says {said} of {licence} after it, the replay {_words(found)}", sequence=sequence)
        self._check_allocation(sequence, body, touched)

    def _check_holding(self, sequence: int, licence: str, holding: Sequence[int], *, may_be_over: bool) -> None:
        count, active, quarantined = holding
        if min(holding) < 0:
            self.find(f"leaves {licence} with a negative counter: {_words(holding)}", sequence=sequence)
        if active + quarantined > count and not may_be_over:
            self.find(
                f"oversells {licence}: {active} active and {quarantined} in quarantine of {count}",
                sequence=sequence,
            )

    def _check_allocation(self, sequence: int, body: EntryBody, touched: Mapping[str, Counts]) -> None:
        event, told = body.event, body.allocation
        self._restored = self._restored or event == "EPOCH_BEGUN"
        if event in _WITHOUT_ALLOCATION:
            if any(active or quarantined for _, active, quarantined in touched.values()):
                self.find(f"is {event} and yet changes seats in use", sequence=sequence)
            return
        if told is None:
            self.find(f"is {event} and names no allocation", sequence=sequence)
            return
        name, state = told.id, told.state
        known = self._allocations.get(name)
        fault = _fault(event, state, known.state if known else None)
        if fault:
            self.find(f"is {event} of allocation {name}, {fault}", sequence=sequence)
        if any(count for count, _, _ in touched.values()):
            self.find(f"is {event} and yet changes a count", sequence=sequence)
        present = known or HeldSeats(state)
        present.state = state
        present.active += sum(active for _, active, _ in touched.values())
        present.quarantined += sum(quarantined for _, _, quarantined in touched.values())
        self._allocations[name] = present
        for other, seats in body.split:
            self._split(sequence, present, other, seats)
        for other, seats in body.merged:
            self._merge(sequence, present, other, seats)
        self._check_seats(sequence, name, present, quantity=told.quantity)
        if state == "ENDED":
            del self._allocations[name]

    def _split(self, sequence: int, present: HeldSeats, name: str, seats: int) -> None:
        """Seats that stay in quarantine under a name of their own, and no longer under this one."""
        if name in self._allocations or seats < 1:
            self.find(f"splits {seats} seats off as {name}, which cannot be", sequence=sequence)
        present.quarantined -= seats
        self._allocations[name] = HeldSeats("QUARANTINED", quarantined=seats)

    def _merge(self, sequence: int, present: HeldSeats, name: str, seats: int) -> None:
        """Seats that were in quarantine under another name and are taken up under this one."""
        other = self._allocations.get(name)
        if other is None or other.state != "QUARANTINED" or not 0 < seats <= other.quarantined:
            self.find(f"takes {seats} seats out of the quarantine of {name}, which cannot be", sequence=sequence)
            return
        present.quarantined += seats
        other.quarantined -= seats
        if not other.quarantined:
            del self._allocations[name]

    def _check_seats(self, sequence: int, name: str, allocation: HeldSeats, *, quantity: int) -> None:
        # Every change of a holding's seats in use is one of these allocations', and each is checked, so
        # the live allocations always add up to the holdings.
        wanted = {"QUARANTINED": (0, quantity), "ENDED": (0, 0)}.get(allocation.state, (quantity, 0))
        found = (allocation.active, allocation.quarantined)
        if found != wanted:
            self.find(
                f"leaves allocation {name}, {allocation.state} with {quantity}, holding {found[0]}"
                f" active and {found[1]} in quarantine",
                sequence=sequence,
            )


def _fault(event: str, state: str, before: str | None) -> str:
    """What is wrong with an allocation's step, or nothing."""
    fits: dict[str, tuple[bool, bool]] = {
        # Whether the state before fits, and whether the state after does.
        **dict.fromkeys(_BEGINS, (before is None, state in _LIVE)),
        **dict.fromkeys(_KEEPS, (before in _LIVE, state in _LIVE)),
        **{one: (before is not None, state in {"ENDED", "QUARANTINED"}) for one in _ENDS},
        _READOPTED: (before is None or before in _LIVE, state in _LIVE),
        "RESUMED": (before == "QUARANTINED", state in _LIVE),
        "QUARANTINE_ENDED": (before == "QUARANTINED", state == "ENDED"),
    }
    if event not in fits:
        return "which is not an event that is known here"
    before_fits, after_fits = fits[event]
    if event in {"CHECKED_IN", "EXPIRED", "RECLAIMED"} and before == "QUARANTINED":
        before_fits = False
    if not before_fits:
        return f"which was {before or 'not there'} before"
    return "" if after_fits else f"and leaves it {state}"


def _words(counts: Sequence[int]) -> str:
    return f"{counts[0]} in all, {counts[1]} active, {counts[2]} in quarantine"


def _genesis(pool: str) -> bytes:
    return hashlib.sha256(b"poolkeeper-ledger-v1\0" + pool.encode()).digest()
