"""Whether gRPC can be used in this process: not in the child of one that has used it before the fork.

gRPC works with threads of its own, and a fork takes none of them along: a call in the child would wait for ever.
Loaded with the package itself, which loads nothing else, so that a fork is noticed however late a client is made.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Final

#: As gRPC's core names its threads on Linux, whoever in the process has started it.
_THREADS: Final = ("grpc", "event_engine", "lifeguard", "resolver-execut", "default-executo")

_used_here = False
_was_used = False
_used_before_fork = False


def uses_grpc() -> None:
    """From now on gRPC is used in this process. Raises FailedPrecondition where it cannot be."""
    global _used_here  # noqa: PLW0603 - a fact about the process.
    require_usable()
    _used_here = True


def require_usable() -> None:
    """Raises FailedPrecondition in the child of a process that has used gRPC."""
    if _used_before_fork:
        raise _refusal("This process was forked from one that has used gRPC, which does not work in the child.")


def require_own(process: int) -> None:
    """Raises FailedPrecondition where something is used that was made in another process, by a fork before this one."""
    if process != os.getpid():
        raise _refusal("This client was made before a fork, and belongs to the parent process.")


def _refusal(message: str) -> Exception:
    from poolkeeper.errors import FailedPrecondition  # noqa: PLC0415 - loads gRPC.

    return FailedPrecondition(
        message,
        hint="Make the client in the process that uses it, and none before the fork: in gunicorn's post_fork or without"
        " --preload, in Celery's worker_process_init, in multiprocessing with the start method spawn or forkserver.",
    )


def _has_threads() -> bool:
    if "grpc" not in sys.modules:
        return False
    # Elsewhere than on Linux, what this package itself has done is all that is known.
    for task in Path("/proc/self/task").glob("*/comm"):
        with contextlib.suppress(OSError):  # It has just ended.
            if task.read_text().startswith(_THREADS):
                return True
    return False


def _before() -> None:
    global _was_used  # noqa: PLW0603 - as above.
    _was_used = _used_here or _has_threads()


def _in_child() -> None:
    global _used_here, _used_before_fork  # noqa: PLW0603 - as above.
    # A host that forks without Python may have called this function alone.
    _used_before_fork = _used_before_fork or _was_used or _used_here
    _used_here = False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_child=_in_child)
