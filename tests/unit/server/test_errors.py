import base64
import string
from typing import TypeVar
from urllib.parse import quote

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from poolkeeper.v1 import errors_pb2
from poolkeeper_server.domain.refusal import Denial, Reason, Refusal, RejectedCandidate, SeatCounts, invalid
from poolkeeper_server.transport.errors import STATUS_OF, code_of, reason_number, status_of

M = TypeVar("M", bound=Message)


def detail(status: status_pb2.Status, kind: type[M]) -> M | None:
    found = kind()
    return next((found for packed in status.details if packed.Unpack(found)), None)


def denied(candidates: int) -> Refusal:
    rejected = RejectedCandidate(
        licence_id="L000001", reason=Reason.NO_SEAT_AVAILABLE, count=2, active=1, quarantined=1, detail="x" * 200
    )
    return Refusal(
        Reason.NO_SEAT_AVAILABLE,
        "No seat is free.",
        denial=Denial(
            estate_id="acme",
            pool_id="west",
            product_id="encoder",
            needed=2,
            counts=SeatCounts(total=5, active=3, quarantined=1),
            next_free_at=1_700_000_000_123_456,
            candidates=(rejected,) * candidates,
            rejections=((Reason.NO_SEAT_AVAILABLE, 40),),
        ),
    )


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_a_status_and_a_number(reason: Reason) -> None:
    status = status_of(Refusal(reason, "So it is."))
    assert code_of(status) is STATUS_OF[reason] is not grpc.StatusCode.OK
    assert errors_pb2.Reason.Name(reason_number(reason)) == f"REASON_{reason}"
    info = detail(status, error_details_pb2.ErrorInfo)
    assert info is not None
    assert (info.reason, info.domain) == (reason, "poolkeeper")


def test_every_reason_of_the_protocol_can_be_given() -> None:
    assert {f"REASON_{reason}" for reason in Reason} == set(errors_pb2.Reason.keys()) - {"REASON_UNSPECIFIED"}


@pytest.mark.parametrize("reason", Reason)
def test_what_may_be_repeated_says_when(reason: Reason) -> None:
    retry = detail(status_of(Refusal(reason, "Not now.")), error_details_pb2.RetryInfo)
    assert (retry is not None) == (STATUS_OF[reason] is grpc.StatusCode.UNAVAILABLE)
    told = detail(status_of(Refusal(reason, "Not now.", retry_after=30_500_000)), error_details_pb2.RetryInfo)
    assert told is not None
    assert told.retry_delay.ToMicroseconds() == 30_500_000


def test_a_field_that_is_not_permitted_is_named() -> None:
    violations = detail(status_of(invalid("wait", "Too long.")), error_details_pb2.BadRequest)
    assert violations is not None
    assert [(one.field, one.description) for one in violations.field_violations] == [("wait", "Too long.")]


def test_hint_and_instant_are_in_the_metadata() -> None:
    status = status_of(Refusal(Reason.LEASE_EXPIRED, "It ended.", hint="Open another.", at=1_700_000_000_000_000))
    info = detail(status, error_details_pb2.ErrorInfo)
    assert info is not None
    assert dict(info.metadata) == {"hint": "Open another.", "time": "2023-11-14T22:13:20Z"}
    assert detail(status, error_details_pb2.PreconditionFailure) is not None


def test_a_denied_check_out_is_explained() -> None:
    status = status_of(denied(1))
    quota = detail(status, error_details_pb2.QuotaFailure)
    assert quota is not None
    assert quota.violations[0].subject == "estates/acme/pools/west"
    denial = detail(status, errors_pb2.Denial)
    assert denial is not None
    assert denial.product == "products/encoder"
    assert denial.next_free_time.ToMicroseconds() == 1_700_000_000_123_456
    counts = denial.counts
    parts = counts.allocated_automatically + counts.allocated_manually + counts.quarantined + counts.assigned_idle
    assert counts.total == parts + counts.available == 5
    assert denial.candidates[0].licence == "estates/acme/licences/L000001"
    assert dict(denial.rejections) == {"NO_SEAT_AVAILABLE": 40}


def test_a_long_denial_fits_into_the_trailers_of_any_client() -> None:
    status = status_of(denied(20))
    assert status.ByteSize() < 5_000
    denial = detail(status, errors_pb2.Denial)
    assert denial is not None
    assert 0 < len(denial.candidates) < 20


@pytest.mark.invariant("TRAILERS")
@pytest.mark.parametrize("reason", Reason)
@pytest.mark.parametrize("text", ["x" * 9_000, "%" * 9_000, "\N{PILE OF POO}" * 9_000])
def test_no_refusal_is_too_long_for_the_trailers_of_any_client(reason: Reason, text: str) -> None:
    denial = denied(20).denial
    status = status_of(Refusal(reason, text, hint=text, field=text, denial=denial, at=0, retry_after=1))
    plain = " " + string.punctuation.replace("%", "")
    encoded = len(quote(status.message, safe=plain)) + len(base64.b64encode(status.SerializeToString()))
    # As gRPC counts them: names and 32 bytes for each, and three of its own.
    assert encoded + 400 < 8_192
    assert status.message.endswith("...")
