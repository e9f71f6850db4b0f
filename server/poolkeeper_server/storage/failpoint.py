"""Named points at which a test kills the daemon (crash tests); inert unless POOLKEEPER_FAILPOINT names one.

The variable's value is NAME or NAME:N; the process kills itself with SIGKILL at the Nth passing of that point.
"""

from __future__ import annotations

import os
import signal
from typing import Final

#: Every point there is.
POINTS: Final = ("before_commit", "after_commit", "before_reply", "in_migration", "in_backup")

_name, _, _count = os.environ.get("POOLKEEPER_FAILPOINT", "").partition(":")
_left = int(_count or "1") if _name else 0
if _name and _name not in POINTS:
    raise ValueError(f"POOLKEEPER_FAILPOINT names {_name!r}; there are {', '.join(POINTS)}")


def failpoint(name: str) -> None:
    """Dies here if it was asked to."""
    if name != _name:
        return
    global _left  # noqa: PLW0603 - the count belongs to the process, as the variable does
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
