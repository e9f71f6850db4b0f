"""What one node, and one address that is not known yet, may have under way; beyond it callers are told to come back.

Rates are of this daemon and live in its memory. What is stored is counted in the store, every few seconds, with what
was added here since: that holds over several daemons, but for what others have added meanwhile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Hashable, Mapping
from typing import Final, Generic, TypeVar

from poolkeeper_server.domain.moment import SECOND
from poolkeeper_server.domain.records import Key
from poolkeeper_server.domain.refusal import Reason, Refusal
from poolkeeper_server.services import metrics

K = TypeVar("K", bound=Hashable)

#: Seconds whose calls may come at once.
_AT_ONCE: Final = 60
#: Callers of whom it is remembered what they have done; who was silent for longest is forgotten first.
_MOST_CALLERS: Final = 100_000
#: Seconds until what is stored has been counted anew.
_COUNTED_EVERY: Final = 5


class Calls(Generic[K]):
    """Calls of many callers, so many a second each, and a minute's at once."""

    __slots__ = ("_left", "_limit", "_most", "_rate")

    def __init__(self, limit: str, rate: int) -> None:
        self._limit = limit
        self._rate = rate
        self._most = float(rate * _AT_ONCE)
        self._left: dict[K, tuple[float, float]] = {}

    def take(self, caller: K, now: float) -> None:
        """Counts a call, at an instant in seconds. Raises Refusal when the caller has none left."""
        left, at = self._left.pop(caller, (self._most, now))
        left = min(self._most, left + (now - at) * self._rate) - 1
        if left < 0:
            self._left[caller] = (left + 1, now)
            raise reached(
                self._limit,
                f"There are more than {self._rate:,} calls a second.",
                retry_after=SECOND // self._rate + SECOND // 10,
            )
        # The newest stands last.
        self._left[caller] = (left, now)
        if len(self._left) > _MOST_CALLERS:
            del self._left[next(iter(self._left))]


class Held:
    """How many of something each node has in the store."""

    def __init__(self, limit: str, what: str, most: int) -> None:
        self._limit = limit
        self._what = what
        self._most = most
        self._stored: dict[Key, int] = {}
        self._since: Counter[Key] = Counter()

    def check(self, node: Key) -> None:
        """Raises Refusal when the node has as many as it may have."""
        if self._stored.get(node, 0) + self._since[node] >= self._most:
            raise reached(
                self._limit,
                f"This node has {self._most:,} {self._what} already.",
                retry_after=_COUNTED_EVERY * SECOND,
            )

    def add(self, node: Key) -> None:
        """Counts one more, until all are counted anew."""
        self._since[node] += 1

    async def count(self, stored: Callable[[Collection[Key]], Awaitable[Mapping[Key, int]]]) -> None:
        """Counts those nodes anew of which anything may be wrong."""
        nodes = [*self._since, *(node for node, count in self._stored.items() if count >= self._most)]
        self._since.clear()
        found = await stored(nodes) if nodes else {}
        # Most nodes have few: only of those that have many is it worth remembering how many.
        self._stored = {node: count for node, count in found.items() if count > self._most // 4}


class Streams:
    """How many streams each node has open at this daemon."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: Counter[Key] = Counter()

    def begin(self, node: Key) -> None:
        """Counts one more. Raises Refusal when the node has as many as it may have."""
        if self._open[node] >= self._most:
            raise reached(
                "streams", f"This node has {self._most:,} streams open at this daemon.", retry_after=10 * SECOND
            )
        self._open[node] += 1

    def end(self, node: Key) -> None:
        """Counts one less."""
        self._open[node] -= 1
        if not self._open[node]:
            del self._open[node]


class Limits:
    """Those of nodes, by the settings."""

    def __init__(self, *, calls_per_second: int, sessions: int, waits: int) -> None:
        self.calls: Calls[Key] = Calls("calls", calls_per_second)
        """Check-outs and listings of a node, each of a batch counting."""
        self.renewals: Calls[Key] = Calls("renewals", calls_per_second)
        """Heartbeats, check-ins and all else that a session sends to keep or give back what it has."""
        self.sessions = Held("sessions", "open sessions", sessions)
        self.waits = Held("waits", "check-outs that wait", waits)
        self.streams = Streams(sessions)


def reached(limit: str, message: str, *, retry_after: int) -> Refusal:
    """The refusal of what is beyond a limit, which is counted."""
    metrics.LIMITS.labels(limit).inc()
    return Refusal(
        Reason.LIMIT_REACHED,
        message,
        hint="Come back a little later; the daemon's settings have this limit.",
        retry_after=retry_after,
    )
