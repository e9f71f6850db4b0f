"""Whether the store takes what is committed: what a daemon says of itself that cannot write."""

from __future__ import annotations

from typing import Final

#: Seconds of nothing but failures after which a daemon says so, and of nothing but commits until it takes it back. The
#: daemon commits every second by itself, so two in a row tell; one that fails is no reason to send everybody away.
STEADY: Final = 2.0
#: Seconds that one transaction may take before it counts as one that does not end.
ENDLESS: Final = 15.0


class Writability:
    """How the transactions of a daemon end. It is told the time, in seconds, and never looks."""

    def __init__(self) -> None:
        """As far as anybody knows, all is well."""
        self.reason = ""
        """Why nothing can be committed; empty while it can."""
        self.last = ""
        """Why a transaction was not committed last."""
        self.is_troubled = False
        """Whether it wants to hear of the next commit."""
        self.under_way: float | None = None
        """When the transaction that is under way has begun."""
        self._turned: float | None = None

    @property
    def recovers(self) -> bool:
        """Whether commits succeed again, after nothing could be committed."""
        return bool(self.reason) and self._turned is not None

    def failed(self, *, began: float, now: float, why: str) -> None:
        """A transaction that had begun then was not committed."""
        self.is_troubled, self.last = True, why
        if self.reason:
            self.reason, self._turned = why, None
            return
        if self._turned is None:
            self._turned = began
        if now - self._turned >= STEADY:
            self.reason, self._turned = why, None

    def committed(self, *, now: float) -> None:
        """A transaction was committed; told of only while `is_troubled`."""
        if self.reason:
            if self._turned is None:
                self._turned = now
            if now - self._turned < STEADY:
                return
        self.reason, self._turned, self.is_troubled = "", None, False

    def look(self, *, now: float) -> str:
        """The reason by now: a transaction that does not end is none that was committed."""
        if self.under_way is not None and now - self.under_way >= ENDLESS:
            self.failed(began=self.under_way, now=now, why=f"a transaction has taken {now - self.under_way:.0f} s")
        return self.reason
