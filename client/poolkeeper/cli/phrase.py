"""Values of the protocol as words for people."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from poolkeeper.cli import duration, name
from poolkeeper.v1.errors_pb2 import SeatCounts

# What a daemon that is not in order may say.
_IMPOSSIBLE = "(none that is possible)"


def instant(message: Message, field: str) -> str:
    """A Timestamp field as 2027-12-31 23:59:59Z; empty when unset."""
    if not message.HasField(field):
        return ""
    value: Timestamp = getattr(message, field)
    try:
        return when(value.ToDatetime(UTC))
    except (ValueError, OverflowError):
        return _IMPOSSIBLE


def when(value: datetime) -> str:
    """An instant as 2027-12-31 23:59:59Z."""
    return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}"


def span(message: Message, field: str) -> str:
    """A Duration field as 1h30m; empty when unset."""
    if not message.HasField(field):
        return ""
    value: Duration = getattr(message, field)
    try:
        return duration.phrase(value.ToTimedelta())
    except (ValueError, OverflowError):
        return _IMPOSSIBLE


def choice(message: Message, field: str) -> str:
    """An enumeration's value without the prefix that its type gives it: ACTIVE for POOL_STATE_ACTIVE."""
    number: int = getattr(message, field)
    return _names_of(message, field).get(number, str(number)) if number else ""


def choices(message: Message, field: str) -> str:
    """As `choice`, for a repeated field."""
    numbers: Iterable[int] = getattr(message, field)
    names = _names_of(message, field)
    return ", ".join(names.get(number, str(number)) for number in numbers)


def _names_of(message: Message, field: str) -> dict[int, str]:
    kind = message.DESCRIPTOR.fields_by_name[field].enum_type
    if kind is None:
        raise TypeError(f"{field} is not an enumeration")
    # The zero value is always PREFIX_UNSPECIFIED; a value of a newer daemon is shown as its number.
    prefix = kind.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return {number: value.name.removeprefix(prefix) for number, value in kind.values_by_number.items()}


def units(amounts: Mapping[str, int]) -> str:
    """Units and demands as cameras=4 outputs=1."""
    return " ".join(f"{unit}={amounts[unit]}" for unit in sorted(amounts))


def names(resources: Iterable[str]) -> str:
    """Resource names, each as short as it can be written."""
    return ", ".join(name.short(resource) for resource in resources)


def allocated(counts: SeatCounts) -> str:
    """How many seats are in use."""
    return str(counts.allocated_automatically + counts.allocated_manually)


def seats(counts: SeatCounts) -> str:
    """All counts of a pool in one line."""
    words = [f"{counts.available} of {counts.total} free", f"{allocated(counts)} allocated"]
    words += [f"{counts.quarantined} in quarantine"] if counts.quarantined else []
    words += [f"{counts.assigned_idle} assigned and idle"] if counts.assigned_idle else []
    return ", ".join(words)


def yes(value: bool) -> str:  # noqa: FBT001 - there is nothing else to it
    """The word yes, or nothing."""
    return "yes" if value else ""
