"""The one table from a refusal to what is said on the wire."""

import datetime as dt
import string
from urllib.parse import quote

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from poolkeeper.v1 import errors_pb2
from poolkeeper_server.domain.refusal import Denial, Reason, Refusal
from poolkeeper_server.transport import names
from poolkeeper_server.transport.times import duration, timestamp

DOMAIN = "poolkeeper"
DETAILS_KEY = "grpc-status-details-bin"
"""The trailer in which gRPC carries a google.rpc.Status."""

STATUS_OF = {
    Reason.NO_SEAT_AVAILABLE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.POOL_NOT_ACTIVE: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.PRODUCT_NOT_GRANTED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.NOT_ELIGIBLE: grpc.StatusCode.PERMISSION_DENIED,
    Reason.LICENCE_EXPIRED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.ON_HOLD: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.NOT_RELEASED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.HOLDER_LIMIT: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.POOL_MISMATCH: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.LEASE_EXPIRED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.REVOKED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.NODE_REVOKED: grpc.StatusCode.PERMISSION_DENIED,
    Reason.NODE_REBOUND: grpc.StatusCode.PERMISSION_DENIED,
    Reason.NODE_COPIED: grpc.StatusCode.PERMISSION_DENIED,
    Reason.CODE_NOT_ACCEPTED: grpc.StatusCode.PERMISSION_DENIED,
    Reason.ENROLMENT_PENDING: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.KEY_REFUSED: grpc.StatusCode.PERMISSION_DENIED,
    Reason.REQUEST_ID_REUSED: grpc.StatusCode.ALREADY_EXISTS,
    Reason.WAIT_EXPIRED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.ETAG_MISMATCH: grpc.StatusCode.ABORTED,
    Reason.PERMISSION_DENIED: grpc.StatusCode.PERMISSION_DENIED,
    Reason.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.INVALID_FIELD: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.MALFORMED_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.DRAINING: grpc.StatusCode.UNAVAILABLE,
    Reason.OVERLOADED: grpc.StatusCode.UNAVAILABLE,
    Reason.STORE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Reason.CLOCK_FROZEN: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.ALREADY_EXISTS: grpc.StatusCode.ALREADY_EXISTS,
    Reason.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Reason.TOO_MANY_ATTEMPTS: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.FAILED_PRECONDITION: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.INTERNAL: grpc.StatusCode.INTERNAL,
    Reason.LIMIT_REACHED: grpc.StatusCode.RESOURCE_EXHAUSTED,
}
"""Only what is UNAVAILABLE is worth the same request again; everything else needs a change first."""

# Whose quota a RESOURCE_EXHAUSTED is about.
_QUOTAS = {Reason.NO_SEAT_AVAILABLE, Reason.HOLDER_LIMIT, Reason.WAIT_EXPIRED, Reason.LIMIT_REACHED}
_SOON = 1_000_000
# Trailers travel in base64, beside the message in percent encoding, and many clients take no more than 8 KiB of all of
# them together.
MOST_DETAILS = 4_200
_LONGEST_MESSAGE = 2_000
# A text stands in several details, and leaves room for what is exact.
_TEXTS = 5
_MORE = b" ..."
# What gRPC leaves as it is in a message (PROTOCOL-HTTP2.md, Status-Message).
_PLAIN = " " + string.punctuation.replace("%", "")
_CODES = {code.value[0]: code for code in grpc.StatusCode}


def status_of(refusal: Refusal, *, most: int = MOST_DETAILS) -> status_pb2.Status:
    """The refusal with its details, for a unary call's trailers or a stream's message.

    It has about `most` bytes at most, whatever is in it: long texts are cut, and a denial leaves candidates out, the
    worst first.
    """
    code = STATUS_OF[refusal.reason]
    message = _cut(refusal.message, most // _TEXTS)
    while len(quote(message, safe=_PLAIN)) > _LONGEST_MESSAGE:
        message = _cut(message, len(message.encode()) * 3 // 4)
    status = status_pb2.Status(code=code.value[0], message=message)
    metadata = {"hint": _cut(refusal.hint, most // _TEXTS)} if refusal.hint else {}
    if refusal.at is not None:
        instant = dt.datetime.fromtimestamp(refusal.at // 1_000_000, tz=dt.UTC)
        metadata["time"] = instant.isoformat().replace("+00:00", "Z")
    _add(status, error_details_pb2.ErrorInfo(reason=refusal.reason.value, domain=DOMAIN, metadata=metadata))
    if refusal.reason is Reason.INVALID_FIELD:
        field = _cut(refusal.field, most // _TEXTS)
        violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=message)
        _add(status, error_details_pb2.BadRequest(field_violations=[violation]))
    elif code is grpc.StatusCode.FAILED_PRECONDITION:
        _add(status, _precondition(refusal, message))
    elif refusal.reason in _QUOTAS:
        subject = names.pool_name(refusal.denial.estate_id, refusal.denial.pool_id) if refusal.denial else ""
        quota = error_details_pb2.QuotaFailure.Violation(subject=subject, description=message)
        _add(status, error_details_pb2.QuotaFailure(violations=[quota]))
    retry_after = refusal.retry_after
    if retry_after is None and code is grpc.StatusCode.UNAVAILABLE:
        retry_after = _SOON
    if retry_after is not None:
        _add(status, error_details_pb2.RetryInfo(retry_delay=duration(retry_after)))
    if refusal.denial is not None:
        _add(status, _denial(refusal.reason, refusal.denial, room=most - status.ByteSize()))
    return status


def code_of(status: status_pb2.Status) -> grpc.StatusCode:
    """The gRPC code of a status."""
    return _CODES[status.code]


def internal() -> Refusal:
    """What a caller hears of a fault of ours: that there is one, and nothing from inside."""
    return Refusal(
        Reason.INTERNAL, "The daemon has a fault of its own.", hint="Its log has the details; tell its operator."
    )


def _add(status: status_pb2.Status, detail: Message) -> None:
    packed = Any()
    packed.Pack(detail)
    status.details.append(packed)


def _cut(text: str, most: int) -> str:
    """The text, or as much of it as fits, so that it says that there was more."""
    if len(text) * 4 <= most:
        return text
    raw = text.encode()
    return text if len(raw) <= most else raw[: most - len(_MORE)].decode(errors="ignore") + _MORE.decode()


def _precondition(refusal: Refusal, message: str) -> error_details_pb2.PreconditionFailure:
    denial = refusal.denial
    return error_details_pb2.PreconditionFailure(
        violations=[
            error_details_pb2.PreconditionFailure.Violation(
                type=refusal.reason.value,
                subject=names.pool_name(denial.estate_id, denial.pool_id) if denial else "",
                description=message,
            )
        ]
    )


def _denial(reason: Reason, denial: Denial, *, room: int) -> errors_pb2.Denial:
    message = errors_pb2.Denial(
        reason=reason_number(reason),
        pool=names.pool_name(denial.estate_id, denial.pool_id),
        product=names.product_name(denial.product_id),
        needed=denial.needed,
        counts=errors_pb2.SeatCounts(
            total=denial.counts.total,
            allocated_automatically=denial.counts.active,
            quarantined=denial.counts.quarantined,
            available=denial.counts.available,
        ),
        next_free_time=None if denial.next_free_at is None else timestamp(denial.next_free_at),
        candidates=[
            errors_pb2.RejectedCandidate(
                licence=names.licence_name(denial.estate_id, candidate.licence_id),
                pool=names.pool_name(denial.estate_id, denial.pool_id),
                reason=reason_number(candidate.reason),
                count=candidate.count,
                active=candidate.active,
                quarantined=candidate.quarantined,
                detail=candidate.detail,
            )
            for candidate in denial.candidates
        ],
        rejections={rejected.value: count for rejected, count in denial.rejections},
        place=denial.place,
    )
    while message.candidates and message.ByteSize() > room:
        # The worst go first; the counts by reason still tell of them.
        del message.candidates[-1]
    return message


def reason_number(reason: Reason) -> errors_pb2.Reason.ValueType:
    """The reason as the protocol numbers it."""
    return errors_pb2.Reason.Value(f"REASON_{reason.value}")
