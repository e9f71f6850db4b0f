import pickle
from datetime import UTC, datetime

import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

import poolkeeper
from poolkeeper import errors
from poolkeeper.v1 import errors_pb2, licensing_pb2


def status(code: int, *details: Message, message: str = "told") -> status_pb2.Status:
    made = status_pb2.Status(code=code, message=message)
    for detail in details:
        packed = Any()
        packed.Pack(detail)
        made.details.append(packed)
    return made


def info(reason: str, domain: str = "poolkeeper") -> error_details_pb2.ErrorInfo:
    return error_details_pb2.ErrorInfo(reason=reason, domain=domain)


def test_the_daemon_s_own_hint_and_instant_are_told() -> None:
    told = error_details_pb2.ErrorInfo(
        reason="LEASE_EXPIRED", domain="poolkeeper", metadata={"hint": "open one", "time": "2026-06-01T00:00:00Z"}
    )
    error = errors.from_status(status(9, told))
    assert (error.hint, error.at) == ("open one", datetime(2026, 6, 1, tzinfo=UTC))
    garbled = errors.from_status(status(9, error_details_pb2.ErrorInfo(domain="poolkeeper", metadata={"time": "noon"})))
    assert garbled.at is None


def test_every_reason_of_the_protocol_has_a_class() -> None:
    reasons = {name.removeprefix("REASON_") for name in errors_pb2.Reason.keys()}  # noqa: SIM118 - an enum's wrapper has no iteration.
    assert reasons - {"UNSPECIFIED"} == set(errors.BY_REASON)


def test_every_code_of_grpc_has_a_class() -> None:
    assert set(errors.BY_CODE) == set(range(1, 17))


@pytest.mark.parametrize("kind", errors.public_errors())
def test_every_error_is_exported_and_drawn(kind: type[errors.PoolkeeperError]) -> None:
    assert getattr(poolkeeper, kind.__name__) is kind
    assert kind.__name__ in poolkeeper.__all__
    assert kind.__name__ in (errors.__doc__ or "")


@pytest.mark.parametrize(("reason", "kind"), errors.BY_REASON.items())
def test_a_status_becomes_the_class_of_its_reason(reason: str, kind: type[errors.PoolkeeperError]) -> None:
    error = errors.from_status(status(9, info(reason)))
    assert type(error) is kind
    assert (error.reason, error.message) == (reason, "told")


def test_without_a_reason_of_ours_the_bare_code_decides() -> None:
    assert type(errors.from_status(status(14))) is errors.Unreachable
    assert type(errors.from_status(status(12))) is errors.NotSupported
    foreign = errors.from_status(status(7, info("NO_SEAT_AVAILABLE", domain="elsewhere")))
    assert type(foreign) is errors.PermissionDenied
    assert foreign.reason == ""


def test_a_reason_of_a_newer_daemon_falls_back_to_its_code() -> None:
    error = errors.from_status(status(14, info("FULL_MOON")))
    assert type(error) is errors.Unreachable
    assert error.reason == "FULL_MOON"


def test_a_denial_is_told_in_full() -> None:
    denial = errors_pb2.Denial(
        reason=errors_pb2.REASON_NO_SEAT_AVAILABLE,
        pool="estates/acme/pools/west",
        product="products/enc",
        needed=2,
        counts=errors_pb2.SeatCounts(total=3, quarantined=1),
        candidates=[
            errors_pb2.RejectedCandidate(
                licence="estates/acme/licences/L000001",
                reason=errors_pb2.REASON_LICENCE_EXPIRED,
                detail="It ended.",
            )
        ],
        rejections={"LICENCE_EXPIRED": 1},
        place=4,
    )
    denial.next_free_time.FromSeconds(60)
    error = errors.from_status(
        status(
            8,
            info("NO_SEAT_AVAILABLE"),
            error_details_pb2.RetryInfo(retry_delay=Duration(seconds=1, nanos=500_000_000)),
            denial,
        )
    )
    assert isinstance(error, errors.NoSeatAvailable)
    assert error.retry_after == 1.5
    told = error.denial
    assert told is not None
    assert (told.needed, told.counts.total, told.counts.quarantined, told.place) == (2, 3, 1, 4)
    assert told.next_free_time is not None
    assert told.next_free_time.timestamp() == 60
    assert told.candidates[0].reason == "LICENCE_EXPIRED"
    assert told.rejections == {"LICENCE_EXPIRED": 1}


def test_a_wrong_field_is_named() -> None:
    bad = error_details_pb2.BadRequest(
        field_violations=[error_details_pb2.BadRequest.FieldViolation(field="wait", description="too long")]
    )
    assert "wait: too long" in str(errors.from_status(status(3, info("INVALID_FIELD"), bad)))


@pytest.mark.parametrize("kind", errors.public_errors())
def test_errors_cross_process_borders_whole(kind: type[errors.PoolkeeperError]) -> None:
    error = kind("what", reason="WHY", hint="do", retry_after=2.0)
    # Bandit's warning is about foreign data; these bytes are our own.
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes.
    assert type(copy) is kind
    assert (copy.message, copy.reason, copy.hint, copy.retry_after) == ("what", "WHY", "do", 2.0)
    assert str(copy) == "what do"


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("REVOKED", errors.Revoked),
        ("LEASE_EXPIRED", errors.LeaseExpired),
        ("NOT_FOUND", errors.LeaseExpired),
        ("POOL_NOT_ACTIVE", errors.PoolClosed),
        ("UNSPECIFIED", errors.LeaseLost),
    ],
)
def test_a_notice_says_how_the_allocation_was_lost(reason: str, kind: type[errors.LeaseLost]) -> None:
    told = licensing_pb2.AllocationNotice(reason=errors_pb2.Reason.Value(f"REASON_{reason}"))
    assert type(errors.from_notice(told)) is kind
