"""A process and all that it started, whatever sessions and groups they went into. Linux only."""

import contextlib
import ctypes
import os
import signal
import time
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
#: Between two looks at who is left, and how long one who cannot be ended, as while the disk hangs, is waited for.
_PAUSE_S = 0.01
_LONGEST_S = 5.0


def adopt() -> None:
    """From now on, whoever below loses its parent is a child of this process. Raises OSError."""
    _control(_PR_SET_CHILD_SUBREAPER, 1)


def end_with_parent(parent: int) -> None:
    """The kernel kills this process when its parent ends, however that ends. Raises OSError.

    `execve` keeps that, except for programs that run as another user than who starts them.
    """
    _control(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def descendants(beside: Collection[int] = ()) -> list[int]:
    """All below this process that have not ended, one who was adopted too, but for these children and theirs."""
    children: dict[int, list[int]] = defaultdict(list)
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        with contextlib.suppress(OSError):
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            # One that has ended and was not waited for has handed its children on.
            if state not in {"Z", "X"}:
                children[int(parent)].append(int(entry.name))
    found = [pid for pid in children[os.getpid()] if pid not in beside]
    for pid in found:
        found += children[pid]
    return found


def tell(number: int, beside: Collection[int] = ()) -> None:
    """Sends a signal to all of them."""
    for pid in descendants(beside):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def kill(beside: Collection[int] = ()) -> None:
    """Ends all of them, those too that they start meanwhile; gives up on what the kernel does not let go of."""
    end = time.monotonic() + _LONGEST_S
    while descendants(beside) and time.monotonic() < end:
        tell(signal.SIGKILL, beside)
        reap()
        time.sleep(_PAUSE_S)
    reap()


def reap() -> list[tuple[int, int]]:
    """The children whose state changed, and how, as `os.waitpid` says it; those that ended leave no zombie."""
    found = []
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
            if pid == 0:
                break
            found.append((pid, status))
    return found


def _control(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
