import stat
from pathlib import Path

import orjson
import pytest

from poolkeeper_server.services.configuration import ConfigurationError
from poolkeeper_server.services.directory import DataDirectory
from poolkeeper_server.services.secrets import open_secrets


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "secrets.json"


def test_a_new_database_gets_a_file_that_only_its_owner_can_read(path: Path) -> None:
    made = open_secrets(path, stored_check=None)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]
    again = open_secrets(path, stored_check=made.check_value())
    assert again == made
    assert again.check_value() == made.check_value()


def test_secrets_do_not_show_when_printed(path: Path) -> None:
    made = open_secrets(path, stored_check=None)
    assert "PRIVATE" not in repr(made)
    assert repr(made.code_key) == f"SecretKey(key_id='{made.code_key.key_id}')"


def test_a_used_database_does_not_get_a_new_file(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no secrets file"):
        open_secrets(path, stored_check="0" * 64)
    assert not path.exists()


def test_secrets_of_another_installation_are_refused(tmp_path: Path, path: Path) -> None:
    stored = open_secrets(tmp_path / "theirs.json", stored_check=None).check_value()
    open_secrets(path, stored_check=None)
    with pytest.raises(ConfigurationError, match="another installation") as caught:
        open_secrets(path, stored_check=stored)
    assert "--secrets" in caught.value.hint


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_file_open_to_others_is_refused(path: Path, mode: int) -> None:
    open_secrets(path, stored_check=None)
    path.chmod(mode)
    with pytest.raises(ConfigurationError, match="open to others") as caught:
        open_secrets(path, stored_check=None)
    assert f"chmod 600 {path}" in caught.value.hint


@pytest.mark.parametrize("key", ["format", "mac_keys", "code_key", "signing_keys", "authority"])
def test_a_file_that_misses_a_part_is_refused(path: Path, key: str) -> None:
    open_secrets(path, stored_check=None)
    document = orjson.loads(path.read_bytes())
    del document[key]
    path.write_bytes(orjson.dumps(document))
    with pytest.raises(ConfigurationError, match="damaged"):
        open_secrets(path, stored_check=None)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"null", b'{"format": 2}'])
def test_a_file_of_something_else_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigurationError, match="damaged"):
        open_secrets(path, stored_check=None)


def test_a_truncated_key_is_refused(path: Path) -> None:
    open_secrets(path, stored_check=None)
    document = orjson.loads(path.read_bytes())
    document["code_key"]["key"] = document["code_key"]["key"][:-8]
    path.write_bytes(orjson.dumps(document))
    with pytest.raises(ConfigurationError, match="damaged"):
        open_secrets(path, stored_check=None)


def test_a_directory_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be"):
        open_secrets(tmp_path / "file" / "secrets.json", stored_check=None)
    with pytest.raises(ConfigurationError, match="not a directory"), DataDirectory(tmp_path / "file"):
        pass


def test_a_data_directory_has_one_daemon_at_a_time(tmp_path: Path) -> None:
    with DataDirectory(tmp_path / "data"):
        with pytest.raises(ConfigurationError, match="in use"), DataDirectory(tmp_path / "data"):
            pass
        assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
    with DataDirectory(tmp_path / "data"):
        pass
