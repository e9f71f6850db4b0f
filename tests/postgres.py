"""A PostgreSQL server of the tests' own, and a new database for whoever asks."""

from __future__ import annotations

import asyncio
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from poolkeeper_server.storage.postgres.database import PostgresDatabase

USER: Final = "poolkeeper"
_QUICK: Final = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


def programs() -> Path:
    """Where Debian keeps the newest server's programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not found:
        pytest.fail("PostgreSQL is not installed: apt-get install postgresql")
    return found[-1].parent


def free_port() -> int:
    """One that nothing listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Server:
    """A server on loopback, which runs as a user that may: PostgreSQL refuses to be root."""

    directory: Path
    settings: dict[str, str] = field(default_factory=lambda: dict(_QUICK))
    environment: dict[str, str] = field(default_factory=dict)
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    _names: Iterator[int] = field(default_factory=itertools.count)

    def make(self) -> None:
        """An empty cluster."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            shutil.chown(self.directory, "postgres")
        self.port = free_port()
        self._run("initdb", "--pgdata", str(self.data), "--username", USER, "--auth", "trust", "--no-sync")

    def copy(self) -> Server:
        """A standby with what is there now, not started; at the same port, for when this one has gone."""
        standby = Server(self.directory.with_name("standby"), settings=dict(self.settings), port=self.port)
        standby.directory.mkdir()
        if os.geteuid() == 0:
            shutil.chown(standby.directory, "postgres")
        where = ("--host", "127.0.0.1", "--port", str(self.port), "--username", USER)
        self._run("pg_basebackup", *where, "--pgdata", str(standby.data), "--checkpoint=fast", "--write-recovery-conf")
        return standby

    def promote(self) -> None:
        """Makes a standby the server that is written to."""
        assert self.sql("postgres", "SELECT pg_promote()") == "t"

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Somebody keeps all that is written, as a synchronous standby that calls itself pg_receivewal does."""
        archive = self.directory / "received"
        archive.mkdir()
        if os.geteuid() == 0:
            shutil.chown(archive, "postgres")
        where = ("--host", "127.0.0.1", "--port", str(self.port), "--username", USER)
        words = [*self._as_user(), str(programs() / "pg_receivewal"), *where, "--synchronous", "-D", str(archive)]
        with self.log.open("ab") as log:
            follower = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            yield
        finally:
            follower.terminate()
            follower.wait(timeout=30)

    @property
    def data(self) -> Path:
        """The cluster."""
        return self.directory / "data"

    @property
    def log(self) -> Path:
        """What the server says."""
        return self.directory / "log"

    def start(self) -> None:
        """Starts it and waits until it lets somebody in."""
        options = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": "60",
            "shared_buffers": "32MB",
            **self.settings,
        }
        # The server's own, and not that of what becomes its user first.
        environment = ["env", *(f"{name}={value}" for name, value in self.environment.items())]
        words = [*self._as_user(), *environment, str(programs() / "postgres"), "-D", str(self.data)]
        words += [f"--{name}={value}" for name, value in options.items()]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                # Should the tests be killed, the server goes with them.
                ["setpriv", "--pdeathsig", "INT", "--", *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        ready = [str(programs() / "pg_isready"), "--host", "127.0.0.1", "--port", str(self.port), "--quiet"]
        for _ in range(300):
            if self.process.poll() is not None:
                break
            if subprocess.run([*ready, "--timeout", "1"], check=False).returncode == 0:
                return
            subprocess.run(["sleep", "0.1"], check=True)
        raise AssertionError(f"PostgreSQL does not start: {self.log.read_text()}")

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """Stops it: at once and in order unless told otherwise; SIGQUIT is as a crash."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(timeout=30)
            # What libfaketime leaves behind of a process that ends at once.
            for shared in Path("/dev/shm").glob(f"*faketime_*_{self.process.pid}"):  # noqa: S108 - its place, not ours.
                shared.unlink()
            self.process = None

    def new_database(self, template: str = "template0") -> str:
        """The URL of a new database: an empty one, or a copy of another."""
        name = f"pool{next(self._names)}"
        self.sql("postgres", f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    def url(self, name: str) -> str:
        """The URL of a database."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{name}"

    def sql(self, database: str, statement: str) -> str:
        """What psql says to that."""
        words = [str(programs() / "psql"), "--no-psqlrc", "--quiet", "--tuples-only", "--no-align"]
        done = subprocess.run(
            [*words, "--command", statement, self.url(database)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def _as_user(self) -> Sequence[str]:
        if os.geteuid() != 0:
            return ()
        user = pwd.getpwnam("postgres")
        return ("setpriv", "--reuid", str(user.pw_uid), "--regid", str(user.pw_gid), "--clear-groups", "--")

    def _run(self, program: str, *words: str) -> None:
        done = subprocess.run(
            [*self._as_user(), str(programs() / program), *words],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.directory,
        )
        assert done.returncode == 0, done.stderr


@contextmanager
def serving(environment: dict[str, str] | None = None, /, **settings: str) -> Iterator[Server]:
    """A new server, on a disk that is thrown away; settings replace the quick ones, which survive no power cut.

    `environment` is the server's own, beside what it inherits.
    """
    # Not below the tests' own directory, which only their user may enter.
    with tempfile.TemporaryDirectory(prefix="poolkeeper-postgres-") as directory:
        if os.geteuid() == 0:
            shutil.chown(directory, "postgres")
        server = Server(Path(directory) / "server", settings={**_QUICK, **settings}, environment=environment or {})
        server.make()
        server.start()
        try:
            yield server
        finally:
            # Nobody reads what an orderly end would write.
            server.stop(signal.SIGQUIT)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """One for all tests of a process, each with databases of its own."""
    with serving() as server:
        yield server


@pytest.fixture(scope="session")
def migrated_template(postgres_server: Server) -> str:
    """The name of a database that has the schema and nothing in it."""
    url = postgres_server.new_database()
    assert asyncio.run(PostgresDatabase(url).migrate())
    return url.rpartition("/")[2]


@pytest.fixture
def database(postgres_server: Server) -> str:
    """The URL of a new, empty database."""
    return postgres_server.new_database()
