"""Starts that cannot be: each says what, why and what to do, ends with the right status, and changes nothing."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from pysqlite3 import dbapi2 as sqlite

from tests.process.daemon import COMMAND, REPOSITORY, STARTING, Daemon, Done, Office, Processes, live

REFUSED = 2
#: Of what may be there at the next start, which the service manager tries again.
NOT_YET = 3
LOCK = "daemon.lock"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data directory of a daemon that has served and stopped in order."""
    data = tmp_path_factory.mktemp("finished") / "data"
    live(data)
    return data


@dataclass
class Attempt:
    """A start on a data directory, and what it leaves."""

    data: Path

    def serve(self, options: dict[str, str] | None = None, *, prefix: tuple[str, ...] = ()) -> Done:
        """`poolkeeper serve` to its end."""
        given = {"data": str(self.data), "listen": "127.0.0.1:0", "http-listen": "127.0.0.1:0"} | (options or {})
        words = [*prefix, *COMMAND, "serve"]
        words += [word for name, value in given.items() for word in (f"--{name}", value)]
        done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, timeout=STARTING, check=False)
        return Done(done.returncode, done.stdout, done.stderr)

    def refused(
        self, *said: str, options: dict[str, str] | None = None, prefix: tuple[str, ...] = (), status: int = REFUSED
    ) -> None:
        """An attempt is refused in two lines that say this, and changes nothing."""
        before = self.content()
        done = self.serve(options, prefix=prefix)
        assert done.status == status, done.err or done.out
        assert "Traceback" not in done.out + done.err
        what, hint = done.err.splitlines()
        assert what.startswith("poolkeeper: ")
        assert hint.startswith("  hint: ")
        for words in said:
            assert words in done.err
        assert self.content() == before

    def content(self) -> dict[str, str]:
        """A digest of every file, except the lock that says who was here last."""
        return {
            str(path.relative_to(self.data)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.data.rglob("*"))
            if path.is_file() and path.name != LOCK
        }

    @property
    def database(self) -> Path:
        """The database file."""
        return self.data / "poolkeeper.sqlite"

    @property
    def secrets(self) -> Path:
        """The secrets file."""
        return self.data / "secrets.json"

    @property
    def token(self) -> Path:
        """The file of the operator's token."""
        return self.data / "operator.token"


@pytest.fixture
def attempt(finished: Path, tmp_path: Path) -> Attempt:
    """A copy of a data directory that has served."""
    shutil.copytree(finished, tmp_path / "data")
    return Attempt(tmp_path / "data")


@pytest.fixture
async def running(attempt: Attempt, processes: Processes) -> AsyncIterator[Daemon]:
    """A daemon that serves on that directory."""
    daemon = Daemon(attempt.data, processes)
    await daemon.start()
    yield daemon
    assert await daemon.stop() == 0


def test_a_setting_that_is_none(attempt: Attempt) -> None:
    (attempt.data / "poolkeeper.toml").write_text('lease_durations = "90s"\n')
    attempt.refused("lease_durations", "poolkeeper.toml", "Did you mean lease_duration?")


def test_a_settings_file_that_is_not_toml(attempt: Attempt) -> None:
    (attempt.data / "poolkeeper.toml").write_text("lease_duration: 90s\n")
    attempt.refused("poolkeeper.toml is not valid TOML", "line 1")


def test_a_settings_file_that_is_not_text(attempt: Attempt) -> None:
    (attempt.data / "poolkeeper.toml").write_bytes(b"\xff\xfe\x00lease")
    attempt.refused("poolkeeper.toml is not valid TOML")


@pytest.mark.invariant("3A-START")
async def test_a_data_directory_in_use(running: Daemon, attempt: Attempt) -> None:
    done = await asyncio.to_thread(attempt.serve)
    assert done.status == NOT_YET
    err = done.err
    assert f"in use by another daemon (process {running.process.pid})" in err
    assert "hint: Stop that one first" in err
    async with Office(running) as office:
        assert (await office.pool()).counts.total == 3


def test_a_database_of_a_newer_release(attempt: Attempt) -> None:
    connection = sqlite.connect(str(attempt.database))
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()
    attempt.refused("written by a newer release (schema 9999", "Run the newer release")


def overwritten(path: Path) -> None:
    """Something else lies where the database was."""
    path.write_bytes(b"no database at all\n" * 1000)


def garbled(path: Path) -> None:
    """The head is right, and what follows is not."""
    content = bytearray(path.read_bytes())
    content[100:] = b"\x5a" * (len(content) - 100)
    path.write_bytes(content)


def cut(path: Path) -> None:
    """The end is missing."""
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 3)


@pytest.mark.parametrize("damage", [overwritten, garbled, cut])
def test_a_damaged_database(attempt: Attempt, damage: Callable[[Path], None]) -> None:
    damage(attempt.database)
    attempt.refused("poolkeeper.sqlite", "damaged", "Restore it from a backup")


@contextmanager
def taken() -> Iterator[str]:
    """An address that something else listens on."""
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        yield f"127.0.0.1:{other.getsockname()[1]}"


@pytest.mark.invariant("3A-START")
@pytest.mark.parametrize("option", ["listen", "http-listen"])
def test_a_port_in_use(attempt: Attempt, option: str) -> None:
    with taken() as address:
        attempt.refused(
            f"{address} is in use by another program", f"--{option}", options={option: address}, status=NOT_YET
        )


@pytest.mark.invariant("3A-START")
@pytest.mark.parametrize(
    ("option", "address"),
    [("listen", "192.0.2.1:7443"), ("http-listen", "192.0.2.1:7443"), ("listen", "later.invalid:1")],
)
def test_an_address_that_is_not_there_yet(attempt: Attempt, option: str, address: str) -> None:
    attempt.refused(f"Nothing can listen on {address}", f"--{option}", options={option: address}, status=NOT_YET)


def test_secrets_of_another_installation(attempt: Attempt, tmp_path: Path) -> None:
    other = Attempt(tmp_path / "other")
    # It makes its secrets and then cannot listen.
    with taken() as address:
        assert other.serve({"http-listen": address}).status == NOT_YET
    shutil.copy2(other.secrets, attempt.secrets)
    attempt.refused("secrets.json are not those that this database was last used with", "Put the file back")


def test_secrets_from_before_a_rotation(attempt: Attempt) -> None:
    stale = json.loads(attempt.secrets.read_text())
    stale["mac_keys"][0]["key"] = "A" * 43 + "="
    attempt.secrets.write_text(json.dumps(stale))
    attempt.refused("older backup of this one")


def test_secrets_that_others_can_read(attempt: Attempt) -> None:
    attempt.secrets.chmod(0o644)
    attempt.refused("open to others than its owner (mode 0644)", f"chmod 600 {attempt.secrets}")


def test_secrets_that_are_gone(attempt: Attempt) -> None:
    attempt.secrets.unlink()
    attempt.refused(f"There is no secrets file {attempt.secrets}", "Restore it from its backup")
    assert not attempt.secrets.exists()


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff\xfe", b'{"format": 1, "mac_keys": 3}'])
def test_secrets_that_are_damaged(attempt: Attempt, content: bytes) -> None:
    attempt.secrets.write_bytes(content)
    attempt.refused("is damaged, or not a secrets file", "do not delete it")


@pytest.mark.parametrize("content", [b"", b"\n", b"secret\n", b"\xff\xfe\n", b"pk_short\n"])
def test_an_operator_s_token_that_is_none(attempt: Attempt, content: bytes) -> None:
    attempt.token.write_bytes(content)
    attempt.refused(f"{attempt.token} does not hold", "Delete it")


async def test_an_operator_s_token_that_is_gone_is_made_anew_and_the_old_one_is_worth_nothing(
    attempt: Attempt, processes: Processes
) -> None:
    before = attempt.token.read_text()
    attempt.token.unlink()
    daemon = Daemon(attempt.data, processes)
    await daemon.start()
    assert attempt.token.read_text() != before
    assert attempt.token.stat().st_mode & 0o777 == 0o600
    assert (await daemon.command("pool", "list", "acme")).status == 0
    old = await daemon.command("pool", "list", "acme", POOLKEEPER_TOKEN=before.strip())
    assert old.status == 4
    assert "Traceback" not in old.err
    # Taken away while it runs, the command says where it should be.
    attempt.token.unlink()
    missing = await daemon.command("pool", "list", "acme")
    assert (missing.status, missing.out) == (4, "")
    assert "operator.token" in missing.err
    assert "hint:" in missing.err
    assert await daemon.stop() == 0


def test_a_data_directory_that_may_not_be_written(attempt: Attempt) -> None:
    (attempt.data / LOCK).unlink(missing_ok=True)
    attempt.data.chmod(0o500)
    try:
        # Root without the right to pass by permissions is held to them like everybody else.
        attempt.refused(
            "cannot be written: Permission denied",
            "--data",
            prefix=("setpriv", "--bounding-set=-dac_override,-dac_read_search"),
        )
    finally:
        attempt.data.chmod(0o700)


def test_a_data_directory_that_is_a_file(attempt: Attempt, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine\n")
    attempt.refused(f"{file} is not a directory", options={"data": str(file)})
    assert file.read_text() == "mine\n"


@pytest.mark.parametrize("limit", [1, 64, 400])
def test_a_first_start_without_room_on_the_disk(tmp_path: Path, limit: int) -> None:
    # A limit on the size of files stands for a disk that is full.
    done = Attempt(tmp_path / "data").serve(prefix=("prlimit", f"--fsize={limit * 512}"))
    assert done.status == NOT_YET, done.err
    assert "Traceback" not in done.out + done.err
    assert "hint: " in done.err
