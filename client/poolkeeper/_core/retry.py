"""When to try again, and when to give up."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Final

from poolkeeper._core.patience import LONGEST, QUICKEST
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
    crowded: float = 2.0
    """Up to how many seconds grows the pause of who is told to come back again and again, unless that is longer."""
    attempt: float = LONGEST
    """Seconds that one answer is waited for at most."""


FOR_EVER: Final = RetryPolicy(budget=math.inf, ceiling=2.0)
"""Of what must be heard as long as the session lives."""


def of_heartbeats(interval: float) -> RetryPolicy:
    """How a heartbeat is repeated that is sent every so many seconds.

    A daemon that refuses all heartbeats, since its database is away, would have no time for anything else if all its
    clients came back every second or two; they would find it busy for minutes after the database is back. With a short
    lease there is no time to wait long for one answer.
    """
    return replace(FOR_EVER, crowded=max(FOR_EVER.crowded, interval / 3), attempt=min(LONGEST, interval))


@dataclass(slots=True)
class Retry:
    """The attempts of one request. It is told the time and never looks."""

    policy: RetryPolicy
    started: float
    failures: int = field(default=0)

    def limit(self, *, now: float) -> float:
        """Seconds for which the next answer is waited for: three quarters of what is left of the budget, within reason.

        A daemon may hang and take connections all the same; there must be time to ask another one.
        """
        return max(QUICKEST, min(self.policy.attempt, 0.75 * (self.started + self.policy.budget - now)))

    def pause(self, error: PoolkeeperError, *, now: float, jitter: float) -> float | None:
        """Seconds until the next attempt, or None when the error stands.

        Only what the daemon calls UNAVAILABLE and what it never answered is tried again, within the
        budget. `jitter`, a number from 0 to 1, spreads a crowd out: it shortens our own pause by up to a
        half. Nobody comes back before a RetryInfo of the daemon says so; since it tells that to all of
        them alike, the pause is lengthened, to the double at most, and to more with each refusal.
        """
        if not error.retryable:
            return None
        # The exponent is bounded, or days of failures would end in an overflow.
        growth = self.policy.factor ** min(self.failures, 32)
        wanted = min(self.policy.first * growth, self.policy.ceiling) * (1 - jitter / 2)
        self.failures += 1
        asked = error.retry_after or 0.0
        longer = max(2 * asked, min(asked * growth, self.policy.crowded))
        pause = max(wanted, asked + jitter * (longer - asked))
        return pause if now + pause <= self.started + self.policy.budget else None
