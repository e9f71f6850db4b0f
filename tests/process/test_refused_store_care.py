"""`poolkeeper db` with what it cannot work with: each says what and what to do, and changes nothing."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from pysqlite3 import dbapi2 as sqlite

from tests.postgres import Server, free_port
from tests.process.daemon import COMMAND, REPOSITORY, STARTING, live

REFUSED, USAGE, UNREACHABLE = 1, 2, 3
#: Root without the right to pass by permissions is held to them like everybody else.
HELD = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the data directory of a daemon that has stopped, and a backup of it."""
    directory = tmp_path_factory.mktemp("finished")
    live(directory / "data")
    Care(directory).done("backup", str(directory / "backup"))
    return directory


@dataclass
class Care:
    """`poolkeeper db` in a directory with a store in `data` and its backup in `backup`."""

    directory: Path

    def db(
        self, *words: str, prefix: tuple[str, ...] = (), data: str = "data", path: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """A command to its end."""
        return subprocess.run(
            [*prefix, *COMMAND, "db", *words, "--data", str(self.directory / data)],
            cwd=REPOSITORY,
            env={"PATH": "/usr/bin:/bin", "HOME": str(self.directory), "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=STARTING,
            check=False,
        )

    def done(self, *words: str) -> None:
        """One that must succeed."""
        done = self.db(*words)
        assert done.returncode == 0, done.stderr

    def refused(
        self,
        *words: str,
        status: int,
        said: str,
        prefix: tuple[str, ...] = (),
        data: str = "data",
        path: str = "",
    ) -> None:
        """One that is refused in two lines that say this, and changes nothing."""
        before = self.content()
        done = self.db(*words, prefix=prefix, data=data, path=path)
        assert done.returncode == status, done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr
        what, hint = done.stderr.splitlines()
        assert what.startswith("poolkeeper: ")
        assert hint.startswith("  hint: ")
        assert said in done.stderr
        assert self.content() == before

    def content(self) -> dict[str, str]:
        """A digest of every file, except the lock that says who was here last."""
        return {
            str(path.relative_to(self.directory)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.directory.rglob("*"))
            if path.is_file() and path.name != "daemon.lock" and path.suffix != ".pyc"
        }

    @property
    def backup(self) -> str:
        """The backup."""
        return str(self.directory / "backup")

    def edit(self, file: str, statement: str) -> None:
        """Changes a database behind everybody's back."""
        connection = sqlite.connect(str(self.directory / file), isolation_level=None)
        connection.execute(statement)
        connection.close()


@pytest.fixture
def care(finished: Path, tmp_path: Path) -> Care:
    shutil.copytree(finished, tmp_path / "copy")
    return Care(tmp_path / "copy")


FILES = [
    pytest.param(None, "There is no file", id="missing"),
    pytest.param(b"", "is not a backup", id="empty"),
    pytest.param(b"hello\n" * 100, "is not a backup", id="text"),
    pytest.param(b"SQLite format 3\0" + bytes(4080), "is not a", id="a head alone"),
]


@pytest.mark.parametrize(("content", "said"), FILES)
def test_a_file_that_is_no_backup(care: Care, content: bytes | None, said: str) -> None:
    file = care.directory / "other"
    if content is not None:
        file.write_bytes(content)
    care.refused("verify", str(file), status=USAGE, said=said)
    care.refused("restore", str(file), "--replace", status=USAGE, said=said)


def test_a_database_of_somebody_else(care: Care) -> None:
    care.edit("other", "CREATE TABLE notes (text)")
    care.refused("verify", str(care.directory / "other"), status=USAGE, said="is not a backup")
    care.refused("restore", str(care.directory), "--replace", status=USAGE, said="cannot be read: Is a directory")


def test_a_backup_that_is_cut_off(care: Care) -> None:
    file = Path(care.backup)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    before = care.content()
    for words in (("verify", care.backup), ("restore", care.backup, "--replace")):
        done = care.db(*words)
        assert done.returncode in {REFUSED, USAGE}
        assert "malformed" in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
    assert care.content() == before


def test_a_backup_of_a_newer_release(care: Care) -> None:
    care.edit("backup", "UPDATE alembic_version SET version_num = '9999'")
    for words in (("verify", care.backup), ("restore", care.backup, "--replace")):
        care.refused(*words, status=USAGE, said="was written by a newer release (schema 9999")


def test_secrets_that_are_missing_or_another_s(care: Care) -> None:
    elsewhere = ("restore", care.backup, "--secrets", str(care.directory / "absent"), "--replace")
    care.refused(*elsewhere, status=USAGE, said="There is no secrets file")
    care.edit("backup", "UPDATE marks SET secrets_check = 'another'")
    care.refused("restore", care.backup, "--replace", status=REFUSED, said="was made with other secrets than those in")
    # A proof does without, and says so.
    done = care.db("verify", care.backup)
    assert done.returncode == 0
    assert "not checked: the secrets in" in done.stdout


def test_a_file_that_is_there_is_not_overwritten_unasked(care: Care) -> None:
    care.refused("backup", care.backup, status=REFUSED, said="is there already")
    before = Path(care.backup).read_bytes()
    care.done("backup", care.backup, "--replace")
    care.done("verify", care.backup)
    assert len(Path(care.backup).read_bytes()) == len(before)
    care.refused("backup", str(care.directory), status=USAGE, said="is a directory")


def test_places_that_cannot_be_written(care: Care) -> None:
    closed = care.directory / "closed"
    closed.mkdir(mode=0o500)
    care.refused("backup", str(closed / "file"), status=USAGE, said="cannot be written: Permission", prefix=HELD)
    care.refused("backup", str(care.directory / "no" / "file"), status=USAGE, said="cannot be written: No such file")
    care.refused("migrate", "--to", str(closed), status=USAGE, said="cannot be written: Permission", prefix=HELD)
    # A limit on the size of files stands for a disk that is full.
    full = ("prlimit", "--fsize=65536", "--")
    care.refused("backup", str(care.directory / "new"), status=USAGE, said="cannot be written", prefix=full)
    care.refused("restore", care.backup, "--replace", status=USAGE, said="cannot be written", prefix=full)


def test_a_store_that_is_not_there(care: Care) -> None:
    words = {"backup": (str(care.directory / "new"),), "verify": (), "migrate": ("--to", str(care.directory / "new"))}
    for word, more in words.items():
        care.refused(word, *more, data="nowhere", status=USAGE, said="There is no store at")
        assert not (care.directory / "nowhere").exists()


def test_a_move_to_nowhere_in_particular(care: Care) -> None:
    for nonsense in ("", "mysql://host/name", "postgresql://host:port/name", "postgresql://[host/name"):
        care.refused("migrate", "--to", nonsense, status=USAGE, said="is neither a PostgreSQL database nor a directory")
    care.refused("migrate", "--to", str(care.directory / "data"), status=REFUSED, said="already")
    care.refused("migrate", status=USAGE, said="--to")
    nobody = f"postgresql://poolkeeper@127.0.0.1:{free_port()}/pool"
    care.refused("migrate", "--to", nobody, status=UNREACHABLE, said="cannot be reached")
    care.refused("backup", str(care.directory / "new"), "--database", nobody, status=UNREACHABLE, said="be reached")
    care.refused("verify", "--database", "sqlite://file", status=USAGE, said="not the address of a PostgreSQL")


def test_databases_that_do_not_fit(care: Care, postgres_server: Server) -> None:
    absent = postgres_server.url("absent")
    care.refused("migrate", "--to", absent, status=USAGE, said='database "absent" does not exist')
    empty = postgres_server.new_database()
    care.refused("verify", "--database", empty, status=USAGE, said="There is no store in the database")
    used = postgres_server.new_database()
    care.done("migrate", "--to", used)
    care.refused("migrate", "--to", used, status=REFUSED, said="has data")
    care.refused("restore", care.backup, "--database", used, status=REFUSED, said="has data")
    care.done("restore", care.backup, "--database", used, "--replace")
    postgres_server.sql(used.rpartition("/")[2], "UPDATE alembic_version SET version_num = '9999'")
    newer = ("restore", care.backup, "--database", used, "--replace")
    care.refused(*newer, status=USAGE, said="was written by a newer release")


def test_without_the_extra_for_postgresql_it_is_named(care: Care) -> None:
    (care.directory / "without").mkdir()
    (care.directory / "without" / "asyncpg.py").write_text("raise ModuleNotFoundError('none', name='asyncpg')\n")
    care.refused(
        *("migrate", "--to", "postgresql://poolkeeper@localhost/pool"),
        status=USAGE,
        said='pip install "poolkeeper[postgres]"',
        path=str(care.directory / "without"),
    )


def test_a_copy_of_a_whole_data_directory_is_a_backup_too(care: Care) -> None:
    # As it was told before there was an online backup: the file in WAL mode, without a log beside it.
    old = care.directory / "old"
    shutil.copytree(care.directory / "data", old)
    before = care.content()
    care.done("verify", str(old / "poolkeeper.sqlite"))
    assert care.content() == before
    care.done("restore", str(old / "poolkeeper.sqlite"), "--replace")
    care.done("verify")
