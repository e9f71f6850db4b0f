"""What came of it: waits, peaks, and who had to stop believing in its lease."""

from __future__ import annotations

import math
from collections import Counter
from typing import Final

from poolkeeper_server.domain.commands import CheckOut, Command, Heartbeat, OpenSession

#: Each bucket of waits is so much wider than the one before; the figures are exact to half of that.
_WIDER: Final = math.log(1.04)
_LEAST: Final = 1e-4


class Waits:
    """How long something took, each time."""

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()
        self.most = 0.0
        self.count = 0

    def add(self, seconds: float) -> None:
        """Once more."""
        self._buckets[int(math.log(max(seconds, _LEAST) / _LEAST) / _WIDER)] += 1
        self.most = max(self.most, seconds)
        self.count += 1

    def share(self, part: float) -> float:
        """What this share of all took at most."""
        left = part * self.count
        for bucket in sorted(self._buckets):
            left -= self._buckets[bucket]
            if left <= 0:
                return min(self.most, _LEAST * math.exp((bucket + 0.5) * _WIDER))
        return self.most

    @property
    def told(self) -> tuple[float, float, float]:
        """Half of them, all but one of a hundred, and the longest."""
        return self.share(0.5), self.share(0.99), self.most


class Tally:
    """Of one stretch of time."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Forgets all that was before."""
        self.starts = Waits()
        """From a program's start to its seat."""
        self.check_outs = Waits()
        """From the first sending of a check-out to its grant."""
        self.heartbeats = Waits()
        """From the instant at which a heartbeat was due to its answer."""
        self.seconds: Counter[int] = Counter()
        """What arrived in each second."""
        self.deepest = 0
        """Of the committer's queue."""
        self.most_unread = 0
        """What has arrived at a daemon and was not read yet."""
        self.refusals: Counter[type] = Counter()
        self.sent: Counter[type] = Counter()
        self.gave_up = 0
        """Programs whose start failed, since nobody answered in time."""
        self.over = 0
        """Clients that were told that their session is over."""
        self.lost: list[tuple[float, float]] = []
        """From when to when a client did not believe in its lease."""
        self.back = Waits()
        """How long after `since` each client was renewed that had lost contact."""
        self.since = math.inf
        """When contact was possible again."""

    def arrived(self, now: float) -> None:
        """Something came to a daemon."""
        self.seconds[int(now)] += 1

    def unread(self, length: int) -> None:
        """So much has arrived and was not read."""
        self.most_unread = max(self.most_unread, length)

    def waiting(self, length: int) -> None:
        """So much waits for the committer."""
        self.deepest = max(self.deepest, length)

    def refused(self, command: Command) -> None:
        """There was no room."""
        self.refusals[type(command)] += 1

    @property
    def busiest(self) -> int:
        """The most that arrived in a second."""
        return max(self.seconds.values(), default=0)

    def echo(self, now: float, interval: float) -> float:
        """How often the mean of the last interval its busiest second was."""
        last = [self.seconds[second] for second in range(int(now - interval), int(now))]
        return max(last) * len(last) / sum(last) if any(last) else 0.0

    @property
    def refused_share(self) -> float:
        """Of all openings and check-outs that were sent, those refused as OVERLOADED."""
        sent = self.sent[OpenSession] + self.sent[CheckOut]
        return (self.refusals[OpenSession] + self.refusals[CheckOut]) / sent if sent else 0.0

    @property
    def refused_heartbeats(self) -> int:
        """Heartbeats refused as OVERLOADED."""
        return self.refusals[Heartbeat]

    @property
    def most_lost(self) -> int:
        """The most clients that did not believe in their leases at one time."""
        steps = sorted([(start, 1) for start, _ in self.lost] + [(end, -1) for _, end in self.lost])
        here = most = 0
        for _, step in steps:
            here += step
            most = max(most, here)
        return most

    @property
    def longest_lost(self) -> float:
        """The longest time for which one did not."""
        return max((end - start for start, end in self.lost), default=0.0)
