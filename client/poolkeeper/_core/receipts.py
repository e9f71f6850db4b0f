"""What a client keeps to prove what it holds, should the daemon's state be restored from a backup."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from poolkeeper.v1 import licensing_pb2 as pb


@dataclass(frozen=True, slots=True)
class _Renewal:
    receipt: bytes
    grants: tuple[bytes, ...]


class Receipts:
    """The receipts of a session's grants, and of its newest renewal with the grants that it was about.

    A renewal proves the whole set only, so the receipts of what was given back since are kept until the next one.
    """

    __slots__ = ("_epoch", "_installed", "_is_due", "_leased", "_renewals")

    def __init__(self) -> None:
        """Nothing is held, and no epoch is known."""
        self._leased: dict[str, bytes] = {}
        self._installed: dict[str, bytes] = {}
        self._renewals: tuple[_Renewal, ...] = ()
        self._epoch = 0
        self._is_due = False

    def granted(self, granted: pb.Granted) -> None:
        """Keeps the receipt of a grant; daemons of before have none."""
        if not granted.receipt:
            return
        leased = granted.allocation.kind != pb.ALLOCATION_KIND_INSTALLED
        (self._leased if leased else self._installed)[granted.allocation.name] = granted.receipt
        self._epoch = max(self._epoch, granted.fence.epoch)

    def forgotten(self, name: str) -> None:
        """The allocation is not held any more."""
        self._leased.pop(name, None)
        self._installed.pop(name, None)

    def inherit(self, other: Receipts) -> None:
        """Takes over what an earlier session could prove; it is to be shown."""
        self._leased |= other._leased
        self._installed |= other._installed
        self._renewals += other._renewals
        self._epoch = max(self._epoch, other._epoch)
        self._is_due = self._is_due or bool(other)

    def __bool__(self) -> bool:
        """Whether there is anything to show."""
        return bool(self._leased or self._installed)

    def has(self, name: str) -> bool:
        """Whether there is a receipt of the allocation."""
        return name in self._leased or name in self._installed

    @property
    def epoch(self) -> int:
        """The newest one heard of; 0 when there is nothing to show."""
        return self._epoch if self else 0

    def beat(self) -> tuple[bytes, ...]:
        """The grants that a heartbeat which is sent now is about."""
        return tuple(self._leased.values())

    def renewed(self, answer: pb.HeartbeatResponse, *, about: tuple[bytes, ...], shown: bool) -> None:
        """A heartbeat was answered that was `about` these grants; `shown` says that it had the proofs with it."""
        if shown:
            self._is_due = False
        if answer.epoch > self._epoch:
            self._is_due = bool(self) and not shown
            self._epoch = answer.epoch
        if answer.receipt:
            self._renewals = (_Renewal(answer.receipt, about),)

    def proofs(self) -> list[pb.Proof]:
        """All that proves what is held, when the daemon's state was restored since; else nothing."""
        if not self._is_due:
            return []
        renewed = {receipt for renewal in self._renewals for receipt in renewal.grants}
        newer = [one for one in self._all() if one not in renewed]
        found = [pb.Proof(session_receipt=one.receipt, receipts=one.grants) for one in self._renewals]
        return [*found, pb.Proof(receipts=newer)] if newer else found

    def _all(self) -> Iterable[bytes]:
        return [*self._leased.values(), *self._installed.values()]
