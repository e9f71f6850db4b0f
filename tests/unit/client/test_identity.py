import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from poolkeeper.errors import IdentityUnusable, NotEnrolled
from poolkeeper.identity import Identity, NodeKey, Record, default_directory

POOL = "estates/acme/pools/west"


def record(key: NodeKey, *, code: str = "12345678", secret: bytes = b"first") -> Record:
    return Record(
        addresses=("licences.example.com:7443",),
        node="estates/acme/nodes/studio-7",
        pool=POOL,
        domain="",
        ca_certificate_pem="PEM",
        server_name="poolkeeper",
        pin="K7QF-2M4D-XR3P",
        rolling_secret=secret,
        attempt=key.attempt(POOL, code),
    )


@pytest.fixture
def identity(tmp_path: Path) -> Identity:
    return Identity(tmp_path / "identity")


def test_a_directory_without_an_enrolment_says_so(identity: Identity) -> None:
    with pytest.raises(NotEnrolled):
        identity.load()


def test_the_key_is_on_disk_before_a_code_is_sent_and_stays_for_a_retry(identity: Identity) -> None:
    key = identity.key_for_enrolment(POOL, "12345678")
    again = Identity(identity.directory).key_for_enrolment(POOL, "12345678")
    assert again.public_key == key.public_key


def test_only_the_owner_may_look(identity: Identity) -> None:
    key = identity.key_for_enrolment(POOL, "12345678")
    identity.enrolled(record(key), key)
    assert stat.S_IMODE(identity.directory.stat().st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in identity.directory.iterdir()}
    assert set(modes.values()) == {0o600}


@pytest.mark.invariant("SECRETS")
@pytest.mark.skipif(os.name == "nt", reason="modes are POSIX's")
@pytest.mark.parametrize("name", ["", "node.json", "key"])
@pytest.mark.parametrize("mode", [0o604, 0o640, 0o620])
def test_what_others_can_reach_is_refused_with_what_mends_it(identity: Identity, name: str, mode: int) -> None:
    key = identity.key_for_enrolment(POOL, "12345678")
    identity.enrolled(record(key), key)
    path = identity.directory / (key.file if name == "key" else name)
    wanted = 0o600 if name else 0o700
    path.chmod(mode if name else mode | 0o103)
    for ask in (
        (identity.key, identity.load) if name == "node.json" else (identity.key,) if name else (_locked(identity),)
    ):
        with pytest.raises(IdentityUnusable, match="open to others") as caught:
            ask()
        assert f"chmod {wanted:o} {path}" in caught.value.hint
    path.chmod(wanted)
    assert identity.key().public_key == key.public_key
    _locked(identity)()


def _locked(identity: Identity) -> Callable[[], None]:
    def lock() -> None:
        with identity.try_lock() as held:
            assert held

    return lock


@pytest.mark.invariant("SECRETS")
def test_a_link_or_a_pipe_in_the_place_of_a_file_is_not_followed(identity: Identity) -> None:
    key = identity.key_for_enrolment(POOL, "12345678")
    identity.enrolled(record(key), key)
    path = identity.directory / key.file
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")
    with pytest.raises(IdentityUnusable):
        identity.key()
    path.unlink()
    os.mkfifo(path, 0o600)
    with pytest.raises(IdentityUnusable, match="is not a file"):
        identity.key()


def test_a_record_comes_back_as_it_was_stored(identity: Identity) -> None:
    key = identity.key_for_enrolment(POOL, "12345678")
    stored = identity.enrolled(record(key), key)
    assert identity.load() == stored
    assert identity.key().public_key == key.public_key
    assert b"12345678" not in (identity.directory / "node.json").read_bytes()


@pytest.mark.invariant("INV-5")
def test_the_same_code_again_keeps_the_key_and_the_newest_secret(identity: Identity) -> None:
    key = identity.key_for_enrolment(POOL, "12345678")
    identity.enrolled(record(key), key)
    rolled = record(key, secret=b"second")
    identity.store(Record(**{name: getattr(rolled, name) for name in rolled.__slots__} | {"key_file": key.file}))
    again = identity.key_for_enrolment(POOL, "12345678")
    assert again.public_key == key.public_key
    # The daemon repeats the answer of then, with the secret of then.
    identity.enrolled(record(again, secret=b"first"), again)
    assert identity.load().rolling_secret == b"second"


def test_a_new_code_gets_a_new_key_and_the_old_serves_until_it_is_accepted(
    identity: Identity,
) -> None:
    old = identity.key_for_enrolment(POOL, "12345678")
    identity.enrolled(record(old), old)
    new = identity.key_for_enrolment(POOL, "87654321")
    assert new.public_key != old.public_key
    assert identity.key().public_key == old.public_key
    identity.enrolled(record(new, code="87654321"), new)
    assert identity.key().public_key == new.public_key
    assert len(list(identity.directory.glob("key-*.pem"))) == 1


def test_one_holder_at_a_time(identity: Identity) -> None:
    with identity.try_lock() as first, Identity(identity.directory).try_lock() as second:
        assert (first, second) == (True, False)
    with identity.try_lock() as third:
        assert third


def written(identity: Identity, text: str) -> None:
    identity.directory.mkdir(mode=0o700)
    path = identity.directory / "node.json"
    path.write_text(text)
    path.chmod(0o600)


def test_a_broken_record_is_told_with_a_hint(identity: Identity) -> None:
    written(identity, '{"version": 1}')
    with pytest.raises(IdentityUnusable) as caught:
        identity.load()
    assert caught.value.hint


def test_a_record_of_a_newer_version_is_not_guessed_at(identity: Identity) -> None:
    written(identity, '{"version": 2}')
    with pytest.raises(IdentityUnusable, match="version 2"):
        identity.load()


def test_a_directory_that_cannot_be_written_is_refused_with_a_hint(tmp_path: Path) -> None:
    # A file in the place of the directory stops root too.
    (tmp_path / "file").touch()
    identity = Identity(tmp_path / "file")
    with pytest.raises(IdentityUnusable) as caught:
        identity.require_writable()
    assert caught.value.hint
    with pytest.raises(IdentityUnusable):
        identity.key_for_enrolment(POOL, "12345678")


def test_where_it_lies_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("POOLKEEPER_IDENTITY", str(tmp_path))
    assert default_directory() == tmp_path
    monkeypatch.delenv("POOLKEEPER_IDENTITY")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_directory() == Path("/var/lib/poolkeeper-node")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_directory() == tmp_path / "poolkeeper" / "identity"


def test_the_lock_holds_between_processes(identity: Identity) -> None:
    program = (
        "import sys; from poolkeeper.identity import Identity\n"
        "with Identity(sys.argv[1]).try_lock() as held: print(held)"
    )

    def other() -> str:
        command = [sys.executable, "-c", program, str(identity.directory)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    with identity.try_lock():
        assert other() == "False"
    assert other() == "True"
