"""What a run has measured so far, round by round, and the medians of it."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.bench.load import Measured

Look = Callable[[Measured], float]


def rate(measured: Measured) -> float:
    """Requests a second."""
    return measured.rate


def check_outs(measured: Measured) -> float:
    """Check-outs a second."""
    return measured.check_out_rate


def late(measured: Measured) -> float:
    """The 99th percentile of the latency."""
    return measured.p99


def cpu(measured: Measured) -> float:
    """Server CPU for a request."""
    return measured.cpu


@dataclass
class Book:
    """Loads by title, in the order in which they were first measured, and plain figures by title."""

    loads: dict[str, list[Measured]] = field(default_factory=dict)
    figures: dict[str, list[float]] = field(default_factory=dict)

    def add(self, title: str, measured: Measured) -> None:
        """Takes a load down."""
        self.loads.setdefault(title, []).append(measured)

    def note(self, title: str, figure: float) -> None:
        """Takes a figure down."""
        self.figures.setdefault(title, []).append(figure)

    def median(self, title: str, look: Look) -> float:
        """The median of a load's figure."""
        return statistics.median(look(one) for one in self.loads[title])

    def figure(self, title: str) -> float:
        """The median of a plain figure."""
        return statistics.median(self.figures[title])

    def ratio(self, above: str, below: str, look: Look, look_below: Look | None = None) -> float:
        """The median of the ratios of two loads, each of one round: what disturbs a round disturbs both."""
        pairs = zip(self.loads[above], self.loads[below], strict=True)
        return statistics.median(look(one) / (look_below or look)(other) for one, other in pairs)

    def raw(self) -> dict[str, Any]:
        """All of it, for whoever wants to look closer."""
        return {
            "loads": {
                title: [asdict(one) | {"rate": one.rate, "cpu_us": one.cpu, "server_cores": one.cores} for one in found]
                for title, found in self.loads.items()
            },
            "figures": self.figures,
        }
