"""How clients behave: what is the SDK's own unless a scenario asks what would happen otherwise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from poolkeeper._core.retry import RetryPolicy, of_heartbeats


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """Of all clients of a run."""

    jitter: float = 1.0
    """How much of the SDK's jitter there is: 0 is none, and more than 1 brings heartbeats forward by more."""
    start: RetryPolicy = RetryPolicy()  # noqa: RUF009 - it is frozen
    """How a program's start is tried again."""
    beat: Callable[[float], RetryPolicy] = of_heartbeats
    """How a heartbeat of that interval is tried again."""
    restart: float = 10.0
    """Seconds after which a program that could not start is started again, as a service would be; up to twice that."""
