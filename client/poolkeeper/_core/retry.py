"""When to try again, and when to give up."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

from poolkeeper.errors import PoolkeeperError


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How a request that was answered UNAVAILABLE, or not at all, is repeated."""

    budget: float = 20.0
    """Seconds from the first attempt to the last."""
    first: float = 0.05
    """Seconds before the second attempt."""
    factor: float = 2.0
    """By which each pause is longer than the one before."""
    ceiling: float = 1.0
    """The longest pause in seconds, unless the daemon asks for a longer one."""


FOR_EVER: Final = RetryPolicy(budget=math.inf, ceiling=2.0)
"""Of what must be heard as long as the session lives."""


@dataclass(slots=True)
class Retry:
    """The attempts of one request. It is told the time and never looks."""

    policy: RetryPolicy
    started: float
    failures: int = field(default=0)

    def pause(self, error: PoolkeeperError, *, now: float, jitter: float) -> float | None:
        """Seconds until the next attempt, or None when the error stands.

        Only what the daemon calls UNAVAILABLE and what it never answered is tried again, within the
        budget. Nobody comes back before a RetryInfo of the daemon says so. `jitter` is a number from 0 to 1
        and spreads a crowd out: it shortens our own pause by up to a half, and lengthens that of the
        daemon, which tells all of them the same, to up to the double.
        """
        if not error.retryable:
            return None
        # The exponent is bounded, or days of failures would end in an overflow.
        growth = self.policy.factor ** min(self.failures, 32)
        wanted = min(self.policy.first * growth, self.policy.ceiling) * (1 - jitter / 2)
        self.failures += 1
        pause = max(wanted, (error.retry_after or 0.0) * (1 + jitter))
        return pause if now + pause <= self.started + self.policy.budget else None
