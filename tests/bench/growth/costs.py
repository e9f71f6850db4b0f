"""What things take, in seconds: measured figures, which a run may replace by those of another machine."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

_MICRO = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one request takes of a daemon's CPU."""

    arrive: float
    """To read it, authenticate it and put it into the queue."""
    decide: float
    """Its share of the transaction: loading, deciding, writing."""
    answer: float
    """To build and send the answer."""

    def times(self, factor: int) -> Cost:
        """As much for so many of them."""
        return Cost(arrive=factor * self.arrive, decide=factor * self.decide, answer=factor * self.answer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """A daemon with one core for its Python, on a disk as in the figures of the manual, in a local network.

    2,000 programs that start at once were measured to take 3.2 ms of CPU each, and 0.6 ms when all of them come back
    to a daemon that was started anew.
    """

    connect: float = 500 * _MICRO
    """A TLS handshake."""
    stream: float = 200 * _MICRO
    """The beginning of a stream, beside its first message."""
    challenge: float = 400 * _MICRO
    open: Cost = Cost(arrive=1_500 * _MICRO, decide=50 * _MICRO, answer=100 * _MICRO)
    check_out: Cost = Cost(arrive=80 * _MICRO, decide=190 * _MICRO, answer=130 * _MICRO)
    heartbeat: Cost = Cost(arrive=50 * _MICRO, decide=40 * _MICRO, answer=50 * _MICRO)
    refuse: float = 60 * _MICRO
    """To answer with a refusal."""
    gone: float = 50 * _MICRO
    """To find out that nobody waits any more for what arrived, or for the answer."""
    batch: float = 400 * _MICRO
    """What each transaction takes besides its commands."""
    commit: float = 150 * _MICRO
    """Until the disk says that it is there; nothing else of the daemon waits for that."""
    network: float = 250 * _MICRO
    """One way."""
    slice: float = 0.005
    """How long one of two threads runs before the other has its turn: Python's own figure."""

    def times(self, factor: int) -> Costs:
        """As much for so many clients instead of one; only the way over the network is as long as before."""
        mine = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "network"}
        longer: dict[str, Any] = {
            name: cost.times(factor) if isinstance(cost, Cost) else factor * cost for name, cost in mine.items()
        }
        return replace(self, **longer)
