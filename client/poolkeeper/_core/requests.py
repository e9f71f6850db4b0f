"""Building and checking requests, before anything is sent."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import timedelta

from google.protobuf.duration_pb2 import Duration

from poolkeeper._core.lease import Beat
from poolkeeper.errors import InvalidRequest
from poolkeeper.v1 import licensing_pb2 as pb

_MOST_TEXT = 250
_MOST_SEATS = 1_000_000
_MOST_WAIT = 86_400.0
_MOST_REQUEST_ID = 64
_NANOS = 1_000_000_000


def seconds(span: float | timedelta | None, *, field: str) -> float | None:
    """A span as seconds; raises InvalidRequest for one that is negative or not finite."""
    if span is None:
        return None
    value = span.total_seconds() if isinstance(span, timedelta) else float(span)
    if not math.isfinite(value) or value < 0:
        raise InvalidRequest(f"{field} is {span!r}.", hint="Give seconds or a timedelta, 0 or more.")
    return value


def budget(span: float | timedelta) -> float:
    """The seconds that a call may take; raises InvalidRequest for none."""
    value = seconds(span, field="timeout")
    if not value:
        raise InvalidRequest("timeout is 0.", hint="Give the seconds that a call may take, more than 0.")
    return value


def duration(value: float) -> Duration:
    """Seconds as the protocol writes them."""
    nanos = round(value * _NANOS)
    return Duration(seconds=nanos // _NANOS, nanos=nanos % _NANOS)


def span_of(value: Duration) -> float:
    """A Duration of the protocol in seconds."""
    return float(value.seconds) + value.nanos / _NANOS


def check_out_request(
    product: str,
    *,
    request_id: str,
    consumer: str | None = None,
    installation: str | None = None,
    user: str | None = None,
    host: str | None = None,
    quantity: int | None = None,
    demand: Mapping[str, int] | None = None,
    wait: float | timedelta | None = None,
) -> pb.CheckOutRequest:
    """A check-out as it goes over the wire; raises InvalidRequest for what the daemon would refuse."""
    if not product:
        raise InvalidRequest("product is empty.", hint="Name what you want to use, for example encoder-1x1.")
    if not (0 < len(request_id) <= _MOST_REQUEST_ID and all("!" <= char <= "~" for char in request_id)):
        raise InvalidRequest("request_id must be 1 to 64 visible ASCII characters.")
    texts = {
        "product": product,
        "consumer": consumer or "",
        "installation": installation or "",
        "user": user or "",
        "host": host or "",
    }
    _check_size(quantity, demand)
    request = pb.CheckOutRequest(request_id=request_id, want_grant=True)
    for field, text in texts.items():
        if len(text) > _MOST_TEXT:
            raise InvalidRequest(f"{field} has {len(text)} characters.", hint=f"At most {_MOST_TEXT}.")
        setattr(request, field, text)
    if quantity is not None:
        request.quantity = quantity
    if demand is not None:
        request.demand.CopyFrom(pb.Demand(units=dict(demand)))
    waiting = seconds(wait, field="wait")
    if waiting:
        if waiting > _MOST_WAIT:
            raise InvalidRequest(f"wait is {waiting:g} s.", hint="At most 24 hours.")
        request.wait.CopyFrom(duration(waiting))
    return request


def _check_size(quantity: int | None, demand: Mapping[str, int] | None) -> None:
    if quantity is not None and demand is not None:
        raise InvalidRequest("Both quantity and demand were given.", hint="Give one of them.")
    if quantity is not None and not 1 <= quantity <= _MOST_SEATS:
        raise InvalidRequest(f"quantity is {quantity}.", hint=f"1 to {_MOST_SEATS:,}.")
    for unit, amount in (demand or {}).items():
        if amount < 0 or not unit:
            raise InvalidRequest(f"demand has {unit!r}: {amount}.", hint="Units by name, each 0 or more.")


def close_request(beat: Beat) -> pb.CloseSessionRequest:
    """The end of a session that knows this."""
    request = pb.CloseSessionRequest(allocation_count=beat.count, digest=beat.digest)
    if beat.as_of:
        _tell_known(request.known, beat)
    return request


def _tell_known(known: pb.KnownAllocations, beat: Beat) -> None:
    known.as_of = beat.as_of
    for name, quantity in beat.known:
        known.allocations.add(allocation=name, quantity=quantity)
    known.pending_request_ids.extend(beat.pending)


def heartbeat_request(beat: Beat, *, epoch: int = 0, proofs: Iterable[pb.Proof] = ()) -> pb.HeartbeatRequest:
    """A heartbeat as it goes over the wire; proofs go with what is known."""
    request = pb.HeartbeatRequest(allocation_count=beat.count, digest=beat.digest, epoch=epoch)
    if beat.as_of:
        _tell_known(request.known, beat)
        request.known.proofs.extend(proofs)
    return request


def enrol_texts(pool: str, code: str) -> tuple[str, str]:
    """The pool's full name and the code's bare digits, from what a person typed.

    `acme/west` stands for `estates/acme/pools/west`; spaces and hyphens within the code do not
    count. Raises InvalidRequest when it cannot be a pool or cannot be a code (CC-1), so that a slip
    of the fingers costs no attempt.
    """
    name = pool
    if not pool.startswith("estates/"):
        estate, _, short = pool.partition("/")
        name = f"estates/{estate}/pools/{short}"
    parts = name.split("/")
    if len(parts) != 4 or parts[2] != "pools" or not (parts[1] and parts[3]):  # noqa: PLR2004 - two pairs.
        raise InvalidRequest(f"{pool!r} is not the name of a pool.", hint="Write ESTATE/POOL, as acme/west.")
    digits = "".join(char for char in code if char not in " -")
    if not (len(digits) == 8 and digits.isascii() and digits.isdecimal()):  # noqa: PLR2004 - CC-1.
        raise InvalidRequest("A code is exactly 8 digits.", hint="Leading zeros count.")
    return name, digits
