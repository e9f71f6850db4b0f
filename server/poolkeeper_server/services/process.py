"""What the daemon's process may have of its machine: open files, and arenas of memory."""

from __future__ import annotations

import resource
from contextlib import suppress
from typing import Final

#: Files that are kept for all but gRPC's connections: the store, logs, the HTTP port, and an operator's commands.
_KEPT: Final = 256
#: A daemon that may have fewer files serves these all the same, for as long as it goes.
_FEWEST: Final = 64
#: Linux's own default; a limit that is no limit would be an absurd number of connections.
_MOST: Final = 1_048_576
#: mallopt(3), M_ARENA_MAX. Each of gRPC's threads has an arena of its own otherwise, and none gives back what another
#: could use: what strangers send takes twice the memory, for good.
_ARENA_MAX, _ARENAS = -8, 2


def raise_open_files() -> None:
    """Has as many open files as the process may have (getrlimit(2)); fewer suit programs that use select."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    # One who may not, in some container, goes on with what there is.
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def most_connections() -> int:
    """How many connections there may be, so that open files remain for all else."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(_FEWEST, (_MOST if soft == resource.RLIM_INFINITY else soft) - _KEPT)


def share_arenas() -> None:
    """Has threads share their memory; does nothing where the C library is another than GNU's."""
    # A service that may make no memory executable may be refused the library already.
    with suppress(ImportError, MemoryError, OSError, AttributeError):
        import ctypes  # noqa: PLC0415 - as said

        ctypes.CDLL(None).mallopt(_ARENA_MAX, _ARENAS)
