"""How much is measured: all of it, or just enough to see that every measurement still works."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """The sizes of a run; times in seconds."""

    rounds: int
    """How often each figure is taken; what is told is the median."""
    warm: float
    """How long callers run before they are measured."""
    measure: float
    few: int
    """The smallest number of leases held."""
    some: int
    """The next one, and the leases of the session that has most."""
    many: int
    """The leases that expire at once."""
    most: int
    """The largest number of leases held."""
    heard: int
    """The streams that send heartbeats."""
    programs: int
    """Those that start at a slow daemon."""
    share: float
    """Of the time that this one runs for, below 1."""


FULL: Final = Scale(
    rounds=9,
    warm=0.4,
    measure=1.4,
    few=100,
    some=1_000,
    many=100_000,
    most=1_000_000,
    heard=64,
    programs=3_000,
    share=0.2,
)
SHORT: Final = Scale(
    rounds=1, warm=0.1, measure=0.3, few=100, some=200, many=1_000, most=2_000, heard=4, programs=10, share=0.9
)
