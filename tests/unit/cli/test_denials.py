from datetime import UTC, datetime, timedelta

from poolkeeper import errors
from poolkeeper._records import Place
from poolkeeper.cli import denial, queue

NOW = datetime(2027, 1, 15, 8, 0, tzinfo=UTC)
COUNTS = errors.SeatCounts(
    total=10, allocated_automatically=8, allocated_manually=1, quarantined=1, assigned_idle=0, available=0
)
CANDIDATE = errors.RejectedCandidate(
    licence="estates/acme/licences/L000001",
    pool="estates/acme/pools/west",
    reason="NO_SEAT_AVAILABLE",
    count=10,
    active=9,
    quarantined=1,
    detail="all seats are in use",
)


def told(
    *, needed: int = 1, next_free_time: datetime | None = None, place: int = 0, reason: str = "NO_SEAT_AVAILABLE"
) -> errors.NoSeatAvailable:
    return errors.NoSeatAvailable(
        "The pool has too few free seats.",
        reason=reason,
        hint="Ask the daemon's admin.",
        denial=errors.Denial(
            reason=reason,
            pool="estates/acme/pools/west",
            product="products/encoder-1x1",
            needed=needed,
            counts=COUNTS,
            next_free_time=next_free_time,
            candidates=(CANDIDATE,),
            rejections={"NO_SEAT_AVAILABLE": 1, "LICENCE_EXPIRED": 24},
            place=place,
        ),
    )


def test_a_denial_tells_rule_seats_candidates_and_time() -> None:
    problem = denial.explain(told(next_free_time=NOW + timedelta(minutes=12)), status=123, now=NOW)
    text = "\n".join(problem.lines())
    assert "no licence for encoder-1x1" in text
    assert "NO_SEAT_AVAILABLE in acme/west: 1 seat was needed, 0 of 10 free (9 allocated, 1 in quarantine" in text
    assert "acme/L000001: NO_SEAT_AVAILABLE, 9 of 10 in use, 1 in quarantine; all seats are in use" in text
    assert "25 lines were looked at: 24 LICENCE_EXPIRED, 1 NO_SEAT_AVAILABLE" in text
    assert "expected at 2027-01-15 08:12:00Z, in 12m" in text


def test_waiting_is_not_advised_where_it_cannot_help() -> None:
    assert "never has that many" in denial.explain(told(needed=11), status=123, now=NOW).hint
    assert "--wait" in denial.explain(told(), status=123, now=NOW).hint


def test_a_time_is_told_only_where_a_seat_is_what_lacks() -> None:
    soon = NOW + timedelta(minutes=12)
    assert "in 12m" in denial.explain(told(next_free_time=soon, reason="WAIT_EXPIRED"), status=123, now=NOW).hint
    expired = denial.explain(told(next_free_time=soon, reason="LICENCE_EXPIRED"), status=123, now=NOW)
    assert expired.hint == "ask the daemon's admin"


def test_the_place_at_the_end_of_the_waiting_is_told() -> None:
    assert "place 3 in the queue" in denial.explain(told(place=3), status=123, now=NOW).why


def test_a_denial_without_details_is_told_by_its_message() -> None:
    plain = errors.OnHold("The order is on hold.", reason="ON_HOLD")
    assert denial.explain(plain, status=123).lines() == ["poolkeeper: the order is on hold", "  why: ON_HOLD"]


def test_a_place_comes_with_its_estimate() -> None:
    later = Place(number=2, estimate=NOW + timedelta(minutes=1))
    assert queue.describe("p", later, now=NOW).endswith("place 2; a seat is expected at 2027-01-15 08:01:00Z")
    overdue = Place(number=1, estimate=NOW - timedelta(minutes=1))
    assert "(overdue)" in queue.describe("p", overdue, now=NOW)
