"""The data directory, and the claim that keeps a second daemon out of it."""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from poolkeeper_server.services.configuration import ConfigurationError, NotYet, refused_by_system
from poolkeeper_server.services.private_file import require_private_directory

_LOCK = "daemon.lock"


class DirectoryInUse(NotYet):
    """Another daemon has the data directory."""


class DataDirectory:
    """A data directory that this process has for itself, from entering the context until it is left.

    Raises ConfigurationError when it cannot be made or written, DirectoryInUse when another daemon has it. The claim
    is a lock of the kernel: it ends with the process, however that dies, and a file left behind means nothing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    def __enter__(self) -> Self:
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            require_private_directory(self.path)
            lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            if os.geteuid() == 0:
                # What root does here must not keep the daemon's own user out.
                owner = self.path.stat()
                os.fchown(lock, owner.st_uid, owner.st_gid)
        except (FileExistsError, NotADirectoryError) as error:
            raise ConfigurationError(
                f"The data directory {self.path} is not a directory.", hint="Name another one with --data."
            ) from error
        except OSError as error:
            raise refused_by_system(
                error,
                f"The data directory {self.path} cannot be written: {error.strerror}.",
                hint="Make it writable for the user that runs the daemon, or name another one with --data.",
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(lock, 20, 0).decode(errors="replace").strip()
            os.close(lock)
            raise DirectoryInUse(
                f"The data directory {self.path} is in use by another daemon{f' (process {holder})' * bool(holder)}.",
                hint="Stop that one first, or name another directory with --data.",
            ) from error
        try:
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            os.close(lock)
            raise refused_by_system(
                error,
                f"The data directory {self.path} cannot be written: {error.strerror}.",
                hint="Make room on its disk, or name another one with --data.",
            ) from error
        self._lock = lock
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
