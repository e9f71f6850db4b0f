"""Instants and spans: integer microseconds on our side, Timestamp and Duration on the wire, never a float."""

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from poolkeeper_server.domain.refusal import invalid

_MICROS = 1_000_000
_NANOS = 1_000
# The longest Duration that there is: ten thousand years (duration.proto).
_LONGEST_SECONDS = 315_576_000_000


def timestamp(instant: int) -> Timestamp:
    """Civil microseconds as a Timestamp."""
    seconds, micros = divmod(instant, _MICROS)
    return Timestamp(seconds=seconds, nanos=micros * _NANOS)


def duration(span: int) -> Duration:
    """Microseconds, not negative, as a Duration."""
    seconds, micros = divmod(span, _MICROS)
    return Duration(seconds=seconds, nanos=micros * _NANOS)


def set_instant(target: Timestamp, instant: int) -> None:
    """Writes civil microseconds into a field, without a message in between."""
    seconds, micros = divmod(instant, _MICROS)
    target.seconds = seconds
    target.nanos = micros * _NANOS


def set_span(target: Duration, span: int) -> None:
    """Writes microseconds into a field, without a message in between."""
    seconds, micros = divmod(span, _MICROS)
    target.seconds = seconds
    target.nanos = micros * _NANOS


def read_duration(value: Duration, field: str) -> int:
    """Microseconds of a Duration; what is finer is cut off.

    Raises Refusal (INVALID_FIELD) for one that is negative, or that is none (its numbers out of range).
    """
    if not 0 <= value.seconds <= _LONGEST_SECONDS or not 0 <= value.nanos < _MICROS * _NANOS:
        raise invalid(field, f"{field} is not a span of time.", hint="It must be 0 or more.")
    return value.seconds * _MICROS + value.nanos // _NANOS
