"""Files that nobody but their owner may read: how they are read, and how they are written.

Like OpenSSH and PostgreSQL, the daemon does not start with a secret that others can read, or in a directory in which
others could put files of their own, and says which command mends it. It narrows nothing by itself: whoever had access
may have read the secret already.
"""

import os
import secrets
import shlex
import stat
from pathlib import Path

from poolkeeper_server.services.configuration import ConfigurationError, refused_by_system

_OTHERS = 0o077
#: Root may hand a file, and anybody a directory, to a group that can read it and change nothing.
_READING_GROUP = 0o027


def read_private(path: Path, what: str, *, links: bool = False) -> bytes:
    """The content of a file that others can neither read nor write; `what` it is, for people.

    Raises:
        FileNotFoundError: when there is none.
        ConfigurationError: when others can reach it, when it cannot be read, or is no plain file. A symbolic link is
            none, unless `links` says so.
    """
    # Whoever put a pipe there must not stop us.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if links else os.O_NOFOLLOW)
    if not links and path.is_symlink():
        raise ConfigurationError(
            f"{what} {path} is a symbolic link.", hint="Put the file itself there, or name the file that is meant."
        )
    try:
        with open(os.open(path, flags), "rb") as file:  # noqa: PTH123 # Path.open takes no descriptor.
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise ConfigurationError(f"{what} {path} is not a file.", hint="Put the file there.")
            _require_closed(path, what, found)
            return file.read()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise refused_by_system(
            error,
            f"{what} {path} cannot be read: {error.strerror}.",
            hint="Make it belong to the user that runs the daemon.",
        ) from error


def _require_closed(path: Path, what: str, found: os.stat_result) -> None:
    open_to = _READING_GROUP if found.st_uid == 0 and os.geteuid() != 0 else _OTHERS
    if found.st_mode & open_to:
        raise ConfigurationError(
            f"{what} {path} is open to others than its owner (mode {stat.S_IMODE(found.st_mode):04o}).",
            hint=f"Run: chmod 600 {shlex.quote(str(path))}",
        )


def require_private_directory(path: Path) -> None:
    """Raises ConfigurationError for a directory that others can look into, or in which others can put files."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & _READING_GROUP:
        raise ConfigurationError(
            f"The data directory {path} is open to others than its owner (mode {mode:04o}).",
            hint=f"Run: chmod 700 {shlex.quote(str(path))}",
        )


def write_whole(path: Path, text: str, *, mode: int = 0o600) -> None:
    """Puts a file in place as a whole, in a directory of our own; what is there before, a link too, is replaced.

    Raises:
        ConfigurationError: when the system refuses it.
    """
    # A name that nobody can have put something under before.
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise refused_by_system(
            error,
            f"{path} cannot be written: {error.strerror}.",
            hint="Make room on its disk, and its directory writable for the user that runs the daemon.",
        ) from error
