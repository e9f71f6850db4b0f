"""What stops a start: a setting, a file or a machine that is not as the daemon needs it."""

import errno
import socket
from typing import Final

#: What the next start may not meet any more: a disk without room or with a fault, want of files or memory, an address
#: that is held or not there yet, a network that is away.
_PASSING: Final = frozenset(
    {
        errno.EADDRINUSE,
        errno.EADDRNOTAVAIL,
        errno.EAGAIN,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EHOSTUNREACH,
        errno.EIO,
        errno.EMFILE,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENFILE,
        errno.ENOBUFS,
        errno.ENOMEM,
        errno.ENOSPC,
        errno.EROFS,
        errno.ESTALE,
        errno.ETIMEDOUT,
    }
)


class ConfigurationError(Exception):
    """The daemon cannot run as it is set up; an operator has to change something.

    `message` says what is wrong and where, `hint` what to do about it. The command line prints both and
    leaves with status 2.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message


class NotYet(ConfigurationError):
    """The daemon cannot run now, and may at the next start, with nothing changed; the command leaves with status 3."""


def refused_by_system(error: OSError, message: str, *, hint: str) -> ConfigurationError:
    """What stops a start when the system refuses something: `NotYet` when that may pass by itself."""
    # A name may be known once its server is.
    passes = error.errno in _PASSING or isinstance(error, socket.gaierror)
    return (NotYet if passes else ConfigurationError)(message, hint=hint)


def without_driver(error: ModuleNotFoundError) -> ConfigurationError:
    """What is said when the extra [postgres] is not installed."""
    return ConfigurationError(
        f"{error.name} is not installed, and a PostgreSQL database needs it.",
        hint='Run: pip install "poolkeeper[postgres]"',
    )
