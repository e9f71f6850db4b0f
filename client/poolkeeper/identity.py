"""A node's identity on disk: its key pair and what it learnt when it enrolled.

A directory (mode 0700) with files (mode 0600):

- `key-….pem`: the private key, Ed25519 in PKCS 8, named after its fingerprint;
- `node.json`: the record of the enrolment, which names its key;
- `enrolling.json`: names the key of an enrolment that was begun and not answered yet;
- `lock`: held while a session is opened, so that two processes never present one rolling secret.

Each file is replaced as a whole and synchronised, so a power cut leaves the old one or the new one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import hmac
import json
import os
import shlex
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from poolkeeper._core.signing import fingerprint
from poolkeeper.errors import IdentityUnusable, NotEnrolled

_RECORD: Final = "node.json"
_ENROLLING: Final = "enrolling.json"
_LOCK: Final = "lock"
_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Record:
    """What a node knows of itself and of its daemon."""

    addresses: tuple[str, ...]
    node: str
    pool: str
    domain: str
    """The domain of the binding; empty when the whole node is bound."""
    ca_certificate_pem: str
    """What the daemon's certificate must be signed by; empty: publicly trusted, or plain on loopback."""
    server_name: str
    """The name that the daemon's certificate must carry; empty: the host's own."""
    pin: str
    rolling_secret: bytes = dataclasses.field(repr=False)
    """Presented at the next opening of a session (CC-32)."""
    key_file: str = ""
    attempt: str = ""
    """Tells whether a code is the one that this record came from, without keeping the code."""


@dataclass(frozen=True, slots=True)
class NodeKey:
    """The node's own key pair."""

    private_key: Ed25519PrivateKey = dataclasses.field(repr=False)
    file: str

    @property
    def public_key(self) -> bytes:
        """Raw, 32 bytes."""
        return self.private_key.public_key().public_bytes_raw()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the public key in hexadecimal digits."""
        return fingerprint(self.public_key)

    def sign(self, text: bytes) -> bytes:
        """The signature over a text."""
        return self.private_key.sign(text)

    def attempt(self, pool: str, code: str) -> str:
        """A mark for an enrolment; says nothing about the code to whoever lacks the key."""
        text = f"{pool}\0{code}".encode()
        return hmac.new(self.private_key.private_bytes_raw(), text, hashlib.sha256).hexdigest()


def default_directory() -> Path:
    """POOLKEEPER_IDENTITY, else /var/lib/poolkeeper-node for root, else below XDG_STATE_HOME."""
    named = os.environ.get("POOLKEEPER_IDENTITY")
    if named:
        return Path(named)
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return Path("/var/lib/poolkeeper-node")
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "poolkeeper" / "identity"


class Identity:
    """The identity in one directory."""

    def __init__(self, directory: str | os.PathLike[str] | None = None) -> None:
        """Nothing is read or made before it is asked for."""
        self.directory = Path(directory) if directory is not None else default_directory()

    def load(self) -> Record:
        """The record of the enrolment; raises NotEnrolled or IdentityUnusable."""
        try:
            told = json.loads(self._read(_RECORD))
        except FileNotFoundError:
            raise NotEnrolled(
                f"No enrolled node in {self.directory}.",
                hint="Run the enrol line that came with your code, or name another directory.",
            ) from None
        except (OSError, ValueError) as problem:
            raise self._unusable("read", problem) from problem
        try:
            if told["version"] != _VERSION:
                raise IdentityUnusable(
                    f"{self.directory / _RECORD} is of version {told['version']}.",
                    hint="It was written by a newer poolkeeper; upgrade this one.",
                )
            return Record(
                addresses=tuple(told["addresses"]),
                node=told["node"],
                pool=told["pool"],
                domain=told["domain"],
                ca_certificate_pem=told["ca_certificate_pem"],
                server_name=told["server_name"],
                pin=told["pin"],
                rolling_secret=bytes.fromhex(told["rolling_secret"]),
                key_file=Path(told["key_file"]).name,
                attempt=told["attempt"],
            )
        except (KeyError, TypeError, ValueError) as problem:
            raise self._unusable("understand", problem) from problem

    def key(self) -> NodeKey:
        """The key of the enrolled node; raises NotEnrolled or IdentityUnusable."""
        return self._read_key(self.load().key_file)

    def key_for_enrolment(self, pool: str, code: str) -> NodeKey:
        """The key to enrol with, on disk before it is given.

        The same code gets the same key, also when the answer was lost, so that asking again costs
        nothing (CC-3). A new enrolment of an enrolled node gets a new key; the old one serves until
        the new one is accepted.
        """
        self._make()
        with contextlib.suppress(NotEnrolled):
            record = self.load()
            key = self._read_key(record.key_file)
            if hmac.compare_digest(record.attempt, key.attempt(pool, code)):
                return key
        begun = self._read_begun()
        if begun is not None:
            return begun
        private = Ed25519PrivateKey.generate()
        public = private.public_key().public_bytes_raw()
        key = NodeKey(private_key=private, file=f"key-{fingerprint(public)[:16]}.pem")
        pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self._replace(key.file, pem)
        self._replace(_ENROLLING, json.dumps({"key_file": key.file}).encode())
        return key

    def enrolled(self, record: Record, key: NodeKey) -> Record:
        """Stores the record of an enrolment that was accepted for `key`, and drops other keys."""
        stored = dataclasses.replace(record, key_file=key.file)
        with contextlib.suppress(NotEnrolled):
            before = self.load()
            if (before.key_file, before.node, before.attempt) == (key.file, record.node, record.attempt):
                # The daemon repeats its first answer; the secret has rolled on since.
                stored = dataclasses.replace(stored, rolling_secret=before.rolling_secret)
        self.store(stored)
        for other in self.directory.glob("key-*.pem"):
            if other.name != key.file:
                other.unlink(missing_ok=True)
        (self.directory / _ENROLLING).unlink(missing_ok=True)
        return stored

    def store(self, record: Record) -> None:
        """Replaces the record; raises IdentityUnusable when the directory cannot be written."""
        told = {
            "version": _VERSION,
            "addresses": list(record.addresses),
            "node": record.node,
            "pool": record.pool,
            "domain": record.domain,
            "ca_certificate_pem": record.ca_certificate_pem,
            "server_name": record.server_name,
            "pin": record.pin,
            "rolling_secret": record.rolling_secret.hex(),
            "key_file": record.key_file,
            "attempt": record.attempt,
        }
        self._replace(_RECORD, json.dumps(told, indent=2).encode() + b"\n")

    def require_writable(self) -> None:
        """Raises IdentityUnusable now rather than when the next rolling secret cannot be stored."""
        try:
            descriptor, probe = tempfile.mkstemp(prefix=".probe-", dir=self.directory)
            os.close(descriptor)
            Path(probe).unlink()
        except OSError as problem:
            raise self._unusable("write", problem) from problem

    @contextlib.contextmanager
    def try_lock(self) -> Iterator[bool]:
        """Holds the identity for the caller alone, if nobody else holds it at this moment.

        Gives False at once otherwise; whoever wants it asks again. It never waits, so an event loop
        can use it.
        """
        self._make()
        try:
            flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
            descriptor = os.open(self.directory / _LOCK, flags, 0o600)
        except OSError as problem:
            raise self._unusable("write", problem) from problem
        try:
            yield _lock(descriptor)
        finally:
            # Closing lets go of the lock on every system.
            os.close(descriptor)

    def _make(self) -> None:
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            mode = stat.S_IMODE(self.directory.stat().st_mode)
        except OSError as problem:
            raise self._unusable("make", problem) from problem
        # A group may look in; nobody else may put files there under our names.
        if os.name != "nt" and mode & 0o027:
            raise _open_to_others(self.directory, mode, 700)

    def _read(self, name: str) -> bytes:
        """The content of one of the files, which nobody but its owner can have read or written."""
        path = self.directory / name
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        with open(os.open(path, flags), "rb") as file:  # noqa: PTH123 - Path.open takes no descriptor.
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise OSError(errno.EINVAL, f"{path} is not a file")
            if os.name != "nt" and found.st_mode & 0o077:
                raise _open_to_others(path, stat.S_IMODE(found.st_mode), 600)
            return file.read()

    def _read_key(self, name: str) -> NodeKey:
        try:
            loaded = load_pem_private_key(self._read(name), password=None)
        except (OSError, ValueError) as problem:
            raise self._unusable("read the key of", problem) from problem
        if not isinstance(loaded, Ed25519PrivateKey):
            raise IdentityUnusable(f"{self.directory / name} is not an Ed25519 key.")
        return NodeKey(private_key=loaded, file=name)

    def _read_begun(self) -> NodeKey | None:
        try:
            told = json.loads(self._read(_ENROLLING))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as problem:
            raise self._unusable("read", problem) from problem
        return self._read_key(Path(told["key_file"]).name)

    def _replace(self, name: str, content: bytes) -> None:
        try:
            # mkstemp makes the file 0600, whatever the umask.
            descriptor, temporary = tempfile.mkstemp(prefix=f".{name}-", dir=self.directory)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                Path(temporary).replace(self.directory / name)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
            _synchronise(self.directory)
        except OSError as problem:
            raise self._unusable("write", problem) from problem

    def _unusable(self, what: str, problem: Exception) -> IdentityUnusable:
        return IdentityUnusable(
            f"Cannot {what} the identity in {self.directory}: {problem}.",
            hint="It must be a directory that this user can write: the node's secret changes at every start.",
        )


def _open_to_others(path: Path, mode: int, wanted: int) -> IdentityUnusable:
    return IdentityUnusable(
        f"{path} is open to others than its owner (mode {mode:04o}): whoever reads it can be this node.",
        hint=f"If nobody has read it, run: chmod {wanted} {shlex.quote(str(path))}",
    )


def _synchronise(directory: Path) -> None:
    if os.name == "nt":
        return  # Windows cannot open directories; its rename is journalled.
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


if os.name == "nt":

    def _lock(descriptor: int) -> bool:
        import msvcrt  # noqa: PLC0415 - exists on Windows only.

        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]  # Windows.
        except OSError:
            return False
        return True

else:

    def _lock(descriptor: int) -> bool:
        import fcntl  # noqa: PLC0415 - exists on POSIX only.

        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
