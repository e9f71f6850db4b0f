"""Poolkeeper's SDK: check licences out of a pool, keep them, give them back.

    import poolkeeper

    with poolkeeper.Client() as client, client.check_out("encoder-1x1"):
        ...  # the seat is held in here

`Client` is for ordinary programs, `AsyncClient` for asyncio. A node enrols once, with `enrol` or the
`poolkeeper enrol` command. What can go wrong is drawn in `poolkeeper.errors`; a fake server for
tests is in `poolkeeper.testing`. Everything here is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from poolkeeper import _fork as _fork

if TYPE_CHECKING:
    from poolkeeper._allocation import AsyncAllocation as AsyncAllocation
    from poolkeeper._allocation import AsyncBatchResult as AsyncBatchResult
    from poolkeeper._core.lease import HoldState as HoldState
    from poolkeeper._records import AllocationRecord as AllocationRecord
    from poolkeeper._records import CheckInReason as CheckInReason
    from poolkeeper._records import Place as Place
    from poolkeeper._records import Wanted as Wanted
    from poolkeeper.aio import AsyncClient as AsyncClient
    from poolkeeper.errors import AlreadyExists as AlreadyExists
    from poolkeeper.errors import ClockFrozen as ClockFrozen
    from poolkeeper.errors import CodeNotAccepted as CodeNotAccepted
    from poolkeeper.errors import Denial as Denial
    from poolkeeper.errors import Denied as Denied
    from poolkeeper.errors import Draining as Draining
    from poolkeeper.errors import EnrolmentError as EnrolmentError
    from poolkeeper.errors import EnrolmentPending as EnrolmentPending
    from poolkeeper.errors import EtagMismatch as EtagMismatch
    from poolkeeper.errors import FailedPrecondition as FailedPrecondition
    from poolkeeper.errors import GrantNotValid as GrantNotValid
    from poolkeeper.errors import HolderLimit as HolderLimit
    from poolkeeper.errors import IdentityUnusable as IdentityUnusable
    from poolkeeper.errors import InvalidRequest as InvalidRequest
    from poolkeeper.errors import KeyRefused as KeyRefused
    from poolkeeper.errors import LeaseExpired as LeaseExpired
    from poolkeeper.errors import LeaseLost as LeaseLost
    from poolkeeper.errors import LicenceExpired as LicenceExpired
    from poolkeeper.errors import LimitReached as LimitReached
    from poolkeeper.errors import MalformedRequest as MalformedRequest
    from poolkeeper.errors import NodeCopied as NodeCopied
    from poolkeeper.errors import NodeRebound as NodeRebound
    from poolkeeper.errors import NodeRevoked as NodeRevoked
    from poolkeeper.errors import NoSeatAvailable as NoSeatAvailable
    from poolkeeper.errors import NotEligible as NotEligible
    from poolkeeper.errors import NotEnrolled as NotEnrolled
    from poolkeeper.errors import NotFound as NotFound
    from poolkeeper.errors import NotReleased as NotReleased
    from poolkeeper.errors import NotSupported as NotSupported
    from poolkeeper.errors import NotTrusted as NotTrusted
    from poolkeeper.errors import OnHold as OnHold
    from poolkeeper.errors import Overloaded as Overloaded
    from poolkeeper.errors import PermissionDenied as PermissionDenied
    from poolkeeper.errors import PinMismatch as PinMismatch
    from poolkeeper.errors import PoolClosed as PoolClosed
    from poolkeeper.errors import PoolkeeperError as PoolkeeperError
    from poolkeeper.errors import PoolMismatch as PoolMismatch
    from poolkeeper.errors import PoolNotActive as PoolNotActive
    from poolkeeper.errors import ProductNotGranted as ProductNotGranted
    from poolkeeper.errors import RejectedCandidate as RejectedCandidate
    from poolkeeper.errors import RequestIdReused as RequestIdReused
    from poolkeeper.errors import Revoked as Revoked
    from poolkeeper.errors import SeatCounts as SeatCounts
    from poolkeeper.errors import ServerFault as ServerFault
    from poolkeeper.errors import StoreUnavailable as StoreUnavailable
    from poolkeeper.errors import TooManyAttempts as TooManyAttempts
    from poolkeeper.errors import Unauthenticated as Unauthenticated
    from poolkeeper.errors import Unreachable as Unreachable
    from poolkeeper.errors import WaitExpired as WaitExpired
    from poolkeeper.grants import verify_grant as verify_grant
    from poolkeeper.identity import Identity as Identity
    from poolkeeper.identity import Record as Record
    from poolkeeper.ledger import verify_export as verify_export
    from poolkeeper.sync import Allocation as Allocation
    from poolkeeper.sync import BatchResult as BatchResult
    from poolkeeper.sync import Client as Client
    from poolkeeper.sync import enrol as enrol
_PLACES = {
    "Allocation": "poolkeeper.sync",
    "AllocationRecord": "poolkeeper._records",
    "AlreadyExists": "poolkeeper.errors",
    "AsyncAllocation": "poolkeeper._allocation",
    "AsyncBatchResult": "poolkeeper._allocation",
    "AsyncClient": "poolkeeper.aio",
    "BatchResult": "poolkeeper.sync",
    "CheckInReason": "poolkeeper._records",
    "Client": "poolkeeper.sync",
    "ClockFrozen": "poolkeeper.errors",
    "CodeNotAccepted": "poolkeeper.errors",
    "Denial": "poolkeeper.errors",
    "Denied": "poolkeeper.errors",
    "Draining": "poolkeeper.errors",
    "EnrolmentError": "poolkeeper.errors",
    "EnrolmentPending": "poolkeeper.errors",
    "EtagMismatch": "poolkeeper.errors",
    "FailedPrecondition": "poolkeeper.errors",
    "GrantNotValid": "poolkeeper.errors",
    "HoldState": "poolkeeper._core.lease",
    "HolderLimit": "poolkeeper.errors",
    "Identity": "poolkeeper.identity",
    "IdentityUnusable": "poolkeeper.errors",
    "InvalidRequest": "poolkeeper.errors",
    "KeyRefused": "poolkeeper.errors",
    "LeaseExpired": "poolkeeper.errors",
    "LeaseLost": "poolkeeper.errors",
    "LicenceExpired": "poolkeeper.errors",
    "LimitReached": "poolkeeper.errors",
    "MalformedRequest": "poolkeeper.errors",
    "NoSeatAvailable": "poolkeeper.errors",
    "NodeCopied": "poolkeeper.errors",
    "NodeRebound": "poolkeeper.errors",
    "NodeRevoked": "poolkeeper.errors",
    "NotEligible": "poolkeeper.errors",
    "NotEnrolled": "poolkeeper.errors",
    "NotFound": "poolkeeper.errors",
    "NotReleased": "poolkeeper.errors",
    "NotSupported": "poolkeeper.errors",
    "NotTrusted": "poolkeeper.errors",
    "OnHold": "poolkeeper.errors",
    "Overloaded": "poolkeeper.errors",
    "PermissionDenied": "poolkeeper.errors",
    "PinMismatch": "poolkeeper.errors",
    "Place": "poolkeeper._records",
    "PoolClosed": "poolkeeper.errors",
    "PoolMismatch": "poolkeeper.errors",
    "PoolNotActive": "poolkeeper.errors",
    "PoolkeeperError": "poolkeeper.errors",
    "ProductNotGranted": "poolkeeper.errors",
    "Record": "poolkeeper.identity",
    "RejectedCandidate": "poolkeeper.errors",
    "RequestIdReused": "poolkeeper.errors",
    "Revoked": "poolkeeper.errors",
    "SeatCounts": "poolkeeper.errors",
    "ServerFault": "poolkeeper.errors",
    "StoreUnavailable": "poolkeeper.errors",
    "TooManyAttempts": "poolkeeper.errors",
    "Unauthenticated": "poolkeeper.errors",
    "Unreachable": "poolkeeper.errors",
    "WaitExpired": "poolkeeper.errors",
    "Wanted": "poolkeeper._records",
    "enrol": "poolkeeper.sync",
    "verify_export": "poolkeeper.ledger",
    "verify_grant": "poolkeeper.grants",
}

__all__ = [
    "Allocation",
    "AllocationRecord",
    "AlreadyExists",
    "AsyncAllocation",
    "AsyncBatchResult",
    "AsyncClient",
    "BatchResult",
    "CheckInReason",
    "Client",
    "ClockFrozen",
    "CodeNotAccepted",
    "Denial",
    "Denied",
    "Draining",
    "EnrolmentError",
    "EnrolmentPending",
    "EtagMismatch",
    "FailedPrecondition",
    "GrantNotValid",
    "HoldState",
    "HolderLimit",
    "Identity",
    "IdentityUnusable",
    "InvalidRequest",
    "KeyRefused",
    "LeaseExpired",
    "LeaseLost",
    "LicenceExpired",
    "LimitReached",
    "MalformedRequest",
    "NoSeatAvailable",
    "NodeCopied",
    "NodeRebound",
    "NodeRevoked",
    "NotEligible",
    "NotEnrolled",
    "NotFound",
    "NotReleased",
    "NotSupported",
    "NotTrusted",
    "OnHold",
    "Overloaded",
    "PermissionDenied",
    "PinMismatch",
    "Place",
    "PoolClosed",
    "PoolMismatch",
    "PoolNotActive",
    "PoolkeeperError",
    "ProductNotGranted",
    "Record",
    "RejectedCandidate",
    "RequestIdReused",
    "Revoked",
    "SeatCounts",
    "ServerFault",
    "StoreUnavailable",
    "TooManyAttempts",
    "Unauthenticated",
    "Unreachable",
    "WaitExpired",
    "Wanted",
    "enrol",
    "verify_export",
    "verify_grant",
]


def __getattr__(name: str) -> object:
    place = _PLACES.get(name)
    if place is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(place), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
