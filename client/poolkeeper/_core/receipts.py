"""What a client keeps to prove what it holds, should the daemon's state be restored from a backup."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from poolkeeper.v1 import licensing_pb2 as pb


@dataclass(frozen=True, slots=True)
class _Grant:
    receipt: bytes
    since: int


@dataclass(frozen=True, slots=True)
class _Returned:
    grant: _Grant
    until: int


class Receipts:
    """The receipts of a session's grants, and of its newest renewal with the grants that it was about.

    A renewal proves the whole set only, so the receipts of what was given back since are kept until the next one. The
    set is not copied for each heartbeat: a mark, the number of changes so far, says what was in it.
    """

    __slots__ = (
        "_changes",
        "_epoch",
        "_grants",
        "_inherited",
        "_is_due",
        "_passing",
        "_renewal",
        "_returned",
    )

    def __init__(self) -> None:
        """Nothing is held, and no epoch is known."""
        self._grants: dict[str, _Grant] = {}
        self._changes = 0
        #: The newest renewal's receipt and its mark.
        self._renewal: tuple[bytes, int] | None = None
        #: What was given back since, and that it was about; what it was not, but a heartbeat under way may be.
        self._returned: deque[_Returned] = deque()
        self._passing: deque[_Returned] = deque()
        self._inherited: tuple[pb.Proof, ...] = ()
        self._epoch = 0
        self._is_due = False

    def granted(self, granted: pb.Granted) -> None:
        """Keeps the receipt of a grant; daemons of before have none."""
        if not granted.receipt:
            return
        self._take(granted.allocation.name, granted.receipt)
        self._epoch = max(self._epoch, granted.fence.epoch)

    def forgotten(self, name: str) -> None:
        """The allocation is not held any more."""
        grant = self._grants.pop(name, None)
        if grant is not None:
            self._changes += 1
            self._let_go(_Returned(grant, until=self._changes))

    def inherit(self, other: Receipts) -> None:
        """Takes over what an earlier session could prove; it is to be shown."""
        for name, grant in other._grants.items():
            self._take(name, grant.receipt)
        self._inherited += tuple(other._renewals())
        self._epoch = max(self._epoch, other._epoch)
        self._is_due = self._is_due or bool(other)

    def __bool__(self) -> bool:
        """Whether there is anything to show."""
        return bool(self._grants)

    def has(self, name: str) -> bool:
        """Whether there is a receipt of the allocation."""
        return name in self._grants

    @property
    def epoch(self) -> int:
        """The newest one heard of; 0 when there is nothing to show."""
        return self._epoch if self else 0

    @property
    def mark(self) -> int:
        """What a heartbeat that is sent now is about."""
        return self._changes

    def renewed(self, answer: pb.HeartbeatResponse, *, about: int, shown: bool) -> None:
        """A heartbeat was answered that was sent at the mark `about`; `shown` says that it had the proofs with it."""
        if shown:
            self._is_due = False
        if answer.epoch > self._epoch:
            self._is_due = bool(self) and not shown
            self._epoch = answer.epoch
        if answer.receipt:
            self._renewal, self._inherited = (answer.receipt, about), ()
            earlier = (*self._returned, *self._passing)
            self._returned.clear()
            self._passing.clear()
            for returned in earlier:
                if returned.until > about:
                    self._let_go(returned)
        elif not self._grants:
            self._renewal = None
            self._returned.clear()
        while self._passing and self._passing[0].until <= about:
            self._passing.popleft()

    def proofs(self) -> list[pb.Proof]:
        """All that proves what is held, when the daemon's state was restored since; else nothing."""
        if not self._is_due:
            return []
        found = self._renewals()
        renewed = {receipt for renewal in found for receipt in renewal.receipts}
        newer = [grant.receipt for grant in self._grants.values() if grant.receipt not in renewed]
        return [*found, pb.Proof(receipts=newer)] if newer else found

    def _take(self, name: str, receipt: bytes) -> None:
        self.forgotten(name)
        self._changes += 1
        self._grants[name] = _Grant(receipt, since=self._changes)

    def _let_go(self, returned: _Returned) -> None:
        is_renewed = self._renewal is not None and returned.grant.since <= self._renewal[1]
        (self._returned if is_renewed else self._passing).append(returned)

    def _renewals(self) -> list[pb.Proof]:
        if self._renewal is None:
            return list(self._inherited)
        receipt, mark = self._renewal
        grants = [*self._grants.values(), *(one.grant for one in self._returned)]
        return [pb.Proof(session_receipt=receipt, receipts=[one.receipt for one in grants if one.since <= mark])]
