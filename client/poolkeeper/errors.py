"""Everything that the SDK raises on purpose.

    PoolkeeperError
    ├── Denied                      no seat was given, and `denial` says why
    │   ├── NoSeatAvailable         too few free seats
    │   ├── PoolNotActive           the pool is closed
    │   ├── ProductNotGranted       no licence in the pool grants the product
    │   ├── NotEligible             the caller has no right to draw here
    │   ├── LicenceExpired          past its last day, or before its first
    │   ├── OnHold                  the order is on hold
    │   ├── NotReleased             the licence is not released
    │   ├── HolderLimit             the holder has as many seats as it may have
    │   ├── PoolMismatch            another pool holds the seat, and only its nodes may enlarge it
    │   ├── KeyRefused              the licence key was refused
    │   ├── WaitExpired             the waiting time is over
    │   └── ClockFrozen             the daemon's civil clock is not to be trusted
    ├── LeaseLost                   what was held is held no longer
    │   ├── LeaseExpired            the promise ran out
    │   ├── Revoked                 an admin ended the allocation
    │   ├── PoolClosed              the pool was closed and the promise is over
    │   ├── NodeRevoked             an admin revoked the node
    │   ├── NodeRebound             the node was enrolled anew
    │   └── NodeCopied              the node's identity is in use on two machines
    ├── EnrolmentError              the node cannot prove who it is
    │   ├── CodeNotAccepted         code, pool and key do not belong together
    │   ├── EnrolmentPending        an admin must approve the key's fingerprint
    │   ├── TooManyAttempts         too many codes from here were wrong
    │   ├── NotEnrolled             there is no identity in the directory
    │   ├── IdentityUnusable        the identity's directory cannot be used
    │   └── NotTrusted              the daemon's certificate proves nothing
    │       └── PinMismatch         the daemon is another than the pin says
    ├── InvalidRequest              the request itself is wrong
    │   ├── MalformedRequest        it could not be parsed
    │   └── RequestIdReused         its id was used for a different request
    ├── Unreachable                 no answer; the same request may be repeated
    │   ├── Draining                the daemon is about to stop
    │   ├── Overloaded              the daemon's queue is full
    │   └── StoreUnavailable        the daemon's store cannot be written
    ├── LimitReached                this node or address has as much under way as it may have; `retry_after` says when
    ├── NotFound                    no such resource
    ├── AlreadyExists               a resource of that name exists
    ├── FailedPrecondition          the resource's state does not permit this
    │   └── EtagMismatch            it was changed since it was read
    ├── PermissionDenied            the credential does not permit this
    ├── Unauthenticated             the credential is missing, unknown or expired
    ├── GrantNotValid               a grant's signature or form is wrong
    ├── NotSupported                the daemon does not know this call
    └── ServerFault                 the daemon has a fault of its own

Decide by class, or by `reason`, never by text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Final

from google.rpc import error_details_pb2, status_pb2

from poolkeeper.v1 import errors_pb2

if TYPE_CHECKING:
    import grpc
    from google.protobuf.timestamp_pb2 import Timestamp

    from poolkeeper.v1 import licensing_pb2

DOMAIN: Final = "poolkeeper"


@dataclass(frozen=True, slots=True)
class SeatCounts:
    """The seats of a pool, or of one product in it; total is the sum of the others (MI-20)."""

    total: int
    allocated_automatically: int
    allocated_manually: int
    quarantined: int
    assigned_idle: int
    available: int


@dataclass(frozen=True, slots=True)
class RejectedCandidate:
    """A licence line that was looked at and did not serve the request."""

    licence: str
    pool: str
    reason: str
    count: int
    active: int
    quarantined: int
    detail: str


@dataclass(frozen=True, slots=True)
class Denial:
    """Why a check-out was denied (CC-17)."""

    reason: str
    pool: str
    product: str
    needed: int
    """Seats that the request needed."""
    counts: SeatCounts
    """The seats of the product in the pool."""
    next_free_time: datetime | None
    """When the next seat is expected to be free, in UTC; None when nothing tells."""
    candidates: tuple[RejectedCandidate, ...]
    """At most twenty, best first."""
    rejections: Mapping[str, int]
    """How many candidates were rejected, by reason."""
    place: int
    """Place in the queue when the waiting ended, from 1; 0 when the caller did not wait."""


class PoolkeeperError(Exception):
    """The base of all: what the daemon refused, or what kept the SDK from asking.

    `reason` is the name in the protocol's Reason without its prefix, or empty when the error is the
    SDK's own; `message` says what happened and `hint` what to do; `retry_after` is in seconds; `at` is
    the instant, in UTC, at which a lease ended, where the daemon knows it (CC-15).
    """

    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str = "",
        *,
        reason: str = "",
        hint: str = "",
        retry_after: float | None = None,
        denial: Denial | None = None,
        at: datetime | None = None,
    ) -> None:
        """Keeps every part as an attribute of its own."""
        self.message = message or (type(self).__doc__ or "").splitlines()[0]
        self.reason = reason
        self.hint = hint
        self.retry_after = retry_after
        self.denial = denial
        self.at = at
        super().__init__(self.message)

    def __str__(self) -> str:
        """Message and hint."""
        return f"{self.message} {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors cross process borders whole."""
        return (type(self).__new__, (type(self),), self.__dict__ | {"args": self.args})

    def __setstate__(self, state: dict[str, Any] | None) -> None:
        """Takes the attributes back."""
        self.__dict__.update(state or {})


class Denied(PoolkeeperError):
    """No seat was given."""


class NoSeatAvailable(Denied):
    """The pool has too few free seats."""


class PoolNotActive(Denied):
    """The pool is closed."""


class ProductNotGranted(Denied):
    """No licence in the pool grants the product."""


class NotEligible(Denied):
    """The caller has no right to draw from this pool."""


class LicenceExpired(Denied):
    """Every licence for the product has passed its last day, or has not reached its first."""


class OnHold(Denied):
    """The order is on hold."""


class NotReleased(Denied):
    """The licence is not released."""


class HolderLimit(Denied):
    """The holder has as many seats as it may have."""


class PoolMismatch(Denied):
    """Another pool holds the consumer's seat, and only a node that is bound to it may enlarge it; `denial` names it."""


class KeyRefused(Denied):
    """The licence key was refused."""


class WaitExpired(Denied):
    """The waiting time is over and no seat came free."""


class ClockFrozen(Denied):
    """The daemon's civil clock is not to be trusted, so dated licences are not granted."""


class LeaseLost(PoolkeeperError):
    """What was held is held no longer."""


class LeaseExpired(LeaseLost):
    """The promise ran out before it was renewed."""


class Revoked(LeaseLost):
    """An admin ended the allocation."""


class PoolClosed(LeaseLost):
    """The pool was closed, and the promise is not renewed."""


class NodeRevoked(LeaseLost):
    """An admin revoked this node."""


class NodeRebound(LeaseLost):
    """The node was enrolled anew, with another key or into another pool."""


class NodeCopied(LeaseLost):
    """The node's identity is in use on two machines."""


class EnrolmentError(PoolkeeperError):
    """The node cannot prove who it is."""


class CodeNotAccepted(EnrolmentError):
    """The code, the pool and the key do not belong together."""


class EnrolmentPending(EnrolmentError):
    """Enrolment into this pool waits for an admin, who needs this key's `fingerprint`."""

    fingerprint: str = ""


class TooManyAttempts(EnrolmentError):
    """Too many enrolment attempts from here failed."""


class NotEnrolled(EnrolmentError):
    """There is no enrolled identity in the directory."""


class IdentityUnusable(EnrolmentError):
    """The identity's directory cannot be read or written."""


class NotTrusted(EnrolmentError):
    """The daemon's certificate does not prove that it is the one meant."""


class PinMismatch(NotTrusted):
    """The daemon's CA is another than the pin says."""


class InvalidRequest(PoolkeeperError):
    """A field has a value that is not permitted."""


class MalformedRequest(InvalidRequest):
    """The daemon could not parse the request."""


class RequestIdReused(InvalidRequest):
    """The request id was used for a different request."""


class Unreachable(PoolkeeperError):
    """No daemon answered."""

    retryable: ClassVar[bool] = True


class Draining(Unreachable):
    """The daemon is about to stop."""


class Overloaded(Unreachable):
    """The daemon's queue is full."""


class StoreUnavailable(Unreachable):
    """The daemon's store cannot be written at the moment."""


class LimitReached(PoolkeeperError):
    """The node, or the address that calls, has as much under way as it may have."""


class NotFound(PoolkeeperError):
    """There is no such resource."""


class AlreadyExists(PoolkeeperError):
    """A resource of that name exists."""


class FailedPrecondition(PoolkeeperError):
    """The resource is not in a state that permits this."""


class EtagMismatch(FailedPrecondition):
    """The resource was changed since it was read."""


class PermissionDenied(PoolkeeperError):
    """The credential does not permit this."""


class Unauthenticated(PoolkeeperError):
    """The credential is missing, unknown or has expired."""


class GrantNotValid(PoolkeeperError):
    """The grant was not signed by this installation, or is not a grant."""


class NotSupported(PoolkeeperError):
    """The daemon does not know this call."""


class ServerFault(PoolkeeperError):
    """The daemon has a fault of its own; its log has the details."""


BY_REASON: Final[Mapping[str, type[PoolkeeperError]]] = {
    "NO_SEAT_AVAILABLE": NoSeatAvailable,
    "POOL_NOT_ACTIVE": PoolNotActive,
    "PRODUCT_NOT_GRANTED": ProductNotGranted,
    "NOT_ELIGIBLE": NotEligible,
    "LICENCE_EXPIRED": LicenceExpired,
    "ON_HOLD": OnHold,
    "NOT_RELEASED": NotReleased,
    "HOLDER_LIMIT": HolderLimit,
    "POOL_MISMATCH": PoolMismatch,
    "LEASE_EXPIRED": LeaseExpired,
    "REVOKED": Revoked,
    "NODE_REVOKED": NodeRevoked,
    "NODE_REBOUND": NodeRebound,
    "NODE_COPIED": NodeCopied,
    "CODE_NOT_ACCEPTED": CodeNotAccepted,
    "ENROLMENT_PENDING": EnrolmentPending,
    "KEY_REFUSED": KeyRefused,
    "REQUEST_ID_REUSED": RequestIdReused,
    "WAIT_EXPIRED": WaitExpired,
    "ETAG_MISMATCH": EtagMismatch,
    "PERMISSION_DENIED": PermissionDenied,
    "NOT_FOUND": NotFound,
    "INVALID_FIELD": InvalidRequest,
    "MALFORMED_REQUEST": MalformedRequest,
    "DRAINING": Draining,
    "OVERLOADED": Overloaded,
    "STORE_UNAVAILABLE": StoreUnavailable,
    "CLOCK_FROZEN": ClockFrozen,
    "ALREADY_EXISTS": AlreadyExists,
    "UNAUTHENTICATED": Unauthenticated,
    "TOO_MANY_ATTEMPTS": TooManyAttempts,
    "FAILED_PRECONDITION": FailedPrecondition,
    "INTERNAL": ServerFault,
    "LIMIT_REACHED": LimitReached,
}
"""One class for each reason of the protocol; a test compares it with the protocol."""

BY_CODE: Final[Mapping[int, type[PoolkeeperError]]] = {
    1: Unreachable,  # CANCELLED: the connection was taken down under the call.
    2: ServerFault,  # UNKNOWN
    3: InvalidRequest,  # INVALID_ARGUMENT
    4: Unreachable,  # DEADLINE_EXCEEDED: whether it happened is found out by repeating it.
    5: NotFound,  # NOT_FOUND
    6: AlreadyExists,  # ALREADY_EXISTS
    7: PermissionDenied,  # PERMISSION_DENIED
    8: InvalidRequest,  # RESOURCE_EXHAUSTED: gRPC refuses a message that is too large.
    9: FailedPrecondition,  # FAILED_PRECONDITION
    10: FailedPrecondition,  # ABORTED
    11: InvalidRequest,  # OUT_OF_RANGE
    12: NotSupported,  # UNIMPLEMENTED
    13: ServerFault,  # INTERNAL
    14: Unreachable,  # UNAVAILABLE
    15: ServerFault,  # DATA_LOSS
    16: Unauthenticated,  # UNAUTHENTICATED
}
"""What gRPC itself, or something between, refuses without an ErrorInfo of ours, by status code."""

_NOTICES: Final[Mapping[str, type[LeaseLost]]] = {
    "REVOKED": Revoked,
    "LEASE_EXPIRED": LeaseExpired,
    "NOT_FOUND": LeaseExpired,
    "POOL_NOT_ACTIVE": PoolClosed,
    "NODE_REVOKED": NodeRevoked,
    "NODE_REBOUND": NodeRebound,
    "NODE_COPIED": NodeCopied,
}

_HINTS: Final[Mapping[str, str]] = {
    "CODE_NOT_ACCEPTED": "Check the digits and the pool's name, or ask for a new code.",
    "ENROLMENT_PENDING": "Tell an admin this key's fingerprint, then enrol again with the same code.",
    "NODE_REVOKED": "Ask an admin for a new code and enrol again.",
    "NODE_REBOUND": "Enrol this machine again with a new code if it should go on.",
    "NODE_COPIED": "An admin can pick the machine that goes on (node show, node approve); others need a new code.",
    "CLOCK_FROZEN": "An operator can run: poolkeeper clock accept.",
}


def reason_name(number: int) -> str:
    """A Reason without its prefix; one that this version does not know is its number."""
    try:
        name: str = errors_pb2.Reason.Name(number)  # type: ignore[arg-type]  # any number may come.
    except ValueError:
        return str(number)
    return name.removeprefix("REASON_")


def from_status(status: status_pb2.Status) -> PoolkeeperError:
    """The error that a google.rpc.Status stands for, by the reason of its ErrorInfo."""
    reason, hint, fields = "", "", ""
    at: datetime | None = None
    retry_after: float | None = None
    denial: Denial | None = None
    info = error_details_pb2.ErrorInfo()
    retry = error_details_pb2.RetryInfo()
    refused = errors_pb2.Denial()
    bad = error_details_pb2.BadRequest()
    for detail in status.details:
        # Unpack says whether the detail was of this type.
        if detail.Unpack(info):
            if info.domain == DOMAIN:
                reason, hint, at = (
                    info.reason,
                    info.metadata.get("hint", ""),
                    _instant_of(info.metadata.get("time", "")),
                )
        elif detail.Unpack(retry):
            retry_after = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
        elif detail.Unpack(refused):
            denial = _denial(refused)
        elif detail.Unpack(bad):
            fields = "; ".join(f"{one.field}: {one.description}" for one in bad.field_violations)
    kind = BY_REASON.get(reason) or BY_CODE.get(status.code, ServerFault)
    return kind(
        status.message,
        reason=reason,
        hint=hint or _HINTS.get(reason, "") or (fields if fields not in status.message else ""),
        retry_after=retry_after,
        denial=denial,
        at=at,
    )


def from_rpc(error: grpc.RpcError) -> PoolkeeperError:
    """The error that a failed gRPC call stands for, sync or asyncio."""
    # Both kinds of call have these, and share no type that says so.
    failed: Any = error
    code: int = failed.code().value[0]
    for key, value in failed.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            status = status_pb2.Status()
            # The call's own status has the last word; details of another are not of it.
            if _parses(status, value) and status.code == code:
                return from_status(status)
    return from_status(status_pb2.Status(code=code, message=failed.details() or ""))


def from_notice(notice: licensing_pb2.AllocationNotice) -> LeaseLost:
    """The error for an allocation that the daemon says is no longer held."""
    reason = reason_name(notice.reason)
    kind = _NOTICES.get(reason, LeaseLost)
    at = _instant(notice.time) if notice.HasField("time") else None
    return kind(notice.message, reason=reason, hint=_HINTS.get(reason, ""), at=at)


def public_errors() -> tuple[type[PoolkeeperError], ...]:
    """Every class of the tree, the base first."""

    def below(kind: type[PoolkeeperError]) -> Iterable[type[PoolkeeperError]]:
        yield kind
        for sub in kind.__subclasses__():
            yield from below(sub)

    return tuple(kind for kind in below(PoolkeeperError) if kind.__module__ == __name__)


def _parses(status: status_pb2.Status, value: object) -> bool:
    try:
        status.ParseFromString(value if isinstance(value, bytes) else str(value).encode())
    except Exception:  # noqa: BLE001 - whatever protobuf raises: bytes of a stranger are no status.
        return False
    return True


def _denial(told: errors_pb2.Denial) -> Denial:
    counts = told.counts
    return Denial(
        reason=reason_name(told.reason),
        pool=told.pool,
        product=told.product,
        needed=told.needed,
        counts=SeatCounts(
            total=counts.total,
            allocated_automatically=counts.allocated_automatically,
            allocated_manually=counts.allocated_manually,
            quarantined=counts.quarantined,
            assigned_idle=counts.assigned_idle,
            available=counts.available,
        ),
        next_free_time=_instant(told.next_free_time) if told.HasField("next_free_time") else None,
        candidates=tuple(
            RejectedCandidate(
                licence=one.licence,
                pool=one.pool,
                reason=reason_name(one.reason),
                count=one.count,
                active=one.active,
                quarantined=one.quarantined,
                detail=one.detail,
            )
            for one in told.candidates
        ),
        rejections=dict(told.rejections),
        place=told.place,
    )


def _instant(stamp: Timestamp) -> datetime | None:
    try:
        return stamp.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        # No refusal of a daemon may become a fault of ours, whatever it says.
        return None


def _instant_of(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None
