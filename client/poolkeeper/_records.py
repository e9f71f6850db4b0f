"""What the SDK tells about allocations, and what a batch asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from google.protobuf.timestamp_pb2 import Timestamp

from poolkeeper.v1 import licensing_pb2 as pb


class CheckInReason(StrEnum):
    """Why an allocation is given back; the pool says which of these skip quarantine (CC-24)."""

    ENDED = "ENDED"
    UNINSTALLED = "UNINSTALLED"
    UNIT_REMOVED = "UNIT_REMOVED"
    NODE_DELETED = "NODE_DELETED"

    @property
    def number(self) -> pb.CheckInReason.ValueType:
        """The reason as the protocol numbers it."""
        return pb.CheckInReason.Value(f"CHECK_IN_REASON_{self.value}")


@dataclass(frozen=True, slots=True)
class Wanted:
    """One check-out of a batch; the fields are those of `check_out`."""

    product: str
    consumer: str | None = None
    installation: str | None = None
    user: str | None = None
    host: str | None = None
    quantity: int | None = None
    demand: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a waiting check-out stands."""

    number: int
    """From 1."""
    estimate: datetime | None
    """When a seat is expected, in UTC; None when nothing tells."""


@dataclass(frozen=True, slots=True)
class AllocationRecord:
    """An allocation of this node as the daemon knows it."""

    name: str
    product: str
    kind: str
    """LEASED or INSTALLED."""
    state: str
    """ACTIVE, PROVISIONAL, REVOKED, QUARANTINED or ENDED."""
    quantity: int
    demand: Mapping[str, int]
    consumer: str
    installation: str
    user: str
    host: str
    allocate_time: datetime | None
    quarantine_end_time: datetime | None
    sessions: tuple[str, ...]


def record_of(allocation: pb.Allocation) -> AllocationRecord:
    """An allocation of the protocol as the SDK tells it."""
    return AllocationRecord(
        name=allocation.name,
        product=allocation.product,
        kind=pb.AllocationKind.Name(allocation.kind).removeprefix("ALLOCATION_KIND_"),
        state=pb.AllocationState.Name(allocation.state).removeprefix("ALLOCATION_STATE_"),
        quantity=allocation.quantity,
        demand=dict(allocation.demand),
        consumer=allocation.consumer,
        installation=allocation.installation,
        user=allocation.user,
        host=allocation.host,
        allocate_time=instant_of(allocation.allocate_time) if allocation.HasField("allocate_time") else None,
        quarantine_end_time=instant_of(allocation.quarantine_end_time)
        if allocation.HasField("quarantine_end_time")
        else None,
        sessions=tuple(allocation.sessions),
    )


def place_of(waiting: pb.Waiting) -> Place:
    """A place in the queue as the SDK tells it."""
    estimate = instant_of(waiting.estimate_time) if waiting.HasField("estimate_time") else None
    return Place(number=waiting.place, estimate=estimate)


def instant_of(stamp: Timestamp) -> datetime:
    """A Timestamp of the protocol as an aware datetime in UTC."""
    return stamp.ToDatetime(tzinfo=UTC)


def instant_in(seconds: float) -> datetime:
    """The civil instant that many seconds from now, in UTC."""
    return datetime.now(UTC) + timedelta(seconds=seconds)
