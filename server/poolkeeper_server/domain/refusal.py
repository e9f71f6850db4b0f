"""Why a request is refused."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from poolkeeper_server.domain.moment import SECOND

#: How many names stand in a sentence.
_NAMED = 10


class Reason(StrEnum):
    """The reasons of `errors.proto`, without their prefix."""

    NO_SEAT_AVAILABLE = "NO_SEAT_AVAILABLE"
    POOL_NOT_ACTIVE = "POOL_NOT_ACTIVE"
    PRODUCT_NOT_GRANTED = "PRODUCT_NOT_GRANTED"
    NOT_ELIGIBLE = "NOT_ELIGIBLE"
    LICENCE_EXPIRED = "LICENCE_EXPIRED"
    ON_HOLD = "ON_HOLD"
    NOT_RELEASED = "NOT_RELEASED"
    HOLDER_LIMIT = "HOLDER_LIMIT"
    POOL_MISMATCH = "POOL_MISMATCH"
    LEASE_EXPIRED = "LEASE_EXPIRED"
    REVOKED = "REVOKED"
    NODE_REVOKED = "NODE_REVOKED"
    NODE_REBOUND = "NODE_REBOUND"
    NODE_COPIED = "NODE_COPIED"
    CODE_NOT_ACCEPTED = "CODE_NOT_ACCEPTED"
    ENROLMENT_PENDING = "ENROLMENT_PENDING"
    KEY_REFUSED = "KEY_REFUSED"
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED"
    WAIT_EXPIRED = "WAIT_EXPIRED"
    ETAG_MISMATCH = "ETAG_MISMATCH"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    NOT_FOUND = "NOT_FOUND"
    INVALID_FIELD = "INVALID_FIELD"
    MALFORMED_REQUEST = "MALFORMED_REQUEST"
    DRAINING = "DRAINING"
    OVERLOADED = "OVERLOADED"
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"
    CLOCK_FROZEN = "CLOCK_FROZEN"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    TOO_MANY_ATTEMPTS = "TOO_MANY_ATTEMPTS"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    INTERNAL = "INTERNAL"
    LIMIT_REACHED = "LIMIT_REACHED"


@dataclass(frozen=True, slots=True, kw_only=True)
class SeatCounts:
    """The seats of one or several holdings (MI-20: the parts add up to the total)."""

    total: int = 0
    active: int = 0
    quarantined: int = 0

    @property
    def available(self) -> int:
        """Seats that the next check-out may take; never below zero, also where a line is over its count."""
        return max(0, self.total - self.active - self.quarantined)


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedCandidate:
    """A licence line that did not serve a check-out, and why."""

    licence_id: str
    reason: Reason
    count: int
    active: int
    quarantined: int
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    """What a denied caller is told besides the reason (CC-17).

    `candidates` are at most twenty, best first; `rejections` counts all of them by reason. `next_free_at` is civil
    time in microseconds, None when nothing tells. `place` is 0 unless the caller waited.
    """

    estate_id: str
    pool_id: str
    product_id: str
    needed: int
    counts: SeatCounts
    next_free_at: int | None = None
    candidates: tuple[RejectedCandidate, ...] = ()
    rejections: tuple[tuple[Reason, int], ...] = ()
    place: int = 0


class Refusal(Exception):
    """A request that is answered with a reason instead of an effect.

    Raised, it takes back everything that the command has changed. Returned as an outcome, what was changed stays (a
    failed enrolment is counted). `retry_after` is in microseconds; `field` names what INVALID_FIELD is about; `at` is
    the civil instant to which the reason refers, such as when a lease ended.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        hint: str = "",
        retry_after: int | None = None,
        field: str = "",
        denial: Denial | None = None,
        at: int | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.hint = hint
        self.retry_after = retry_after
        self.field = field
        self.denial = denial
        self.at = at

    def __repr__(self) -> str:
        return f"Refusal({self.reason.value}: {self.message})"


def some(names: Iterable[str]) -> str:
    """Names for a sentence: the first ten of them in order, and how many more there are."""
    found = sorted(names)
    more = len(found) - _NAMED
    return ", ".join(found[:_NAMED]) + (f" and {more:,} more" if more > 0 else "")


def invalid(field: str, message: str, *, hint: str = "") -> Refusal:
    """The refusal of a field's value."""
    return Refusal(Reason.INVALID_FIELD, message, field=field, hint=hint)


def draining() -> Refusal:
    """The refusal of whatever comes to a daemon that is about to stop."""
    return Refusal(
        Reason.DRAINING, "This daemon is about to stop.", hint="Ask another daemon, or come back.", retry_after=SECOND
    )


def not_found(what: str, *, hint: str = "") -> Refusal:
    """The refusal of a name that nothing has."""
    return Refusal(Reason.NOT_FOUND, f"There is no {what}.", hint=hint)
