import os
import shlex
from pathlib import Path

import pytest

from poolkeeper_server.config import ConfigurationError, load_settings
from poolkeeper_server.services.address import Address

SECOND = 1_000_000


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the machine that runs the tests shines through."""
    for name in os.environ:
        if name.startswith(("POOLKEEPER", "XDG")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def test_defaults_are_those_of_the_manual(tmp_path: Path) -> None:
    settings = load_settings({"data": tmp_path})
    assert settings.listen == Address("127.0.0.1", 7443)
    assert settings.http_listen == Address("127.0.0.1", 7480)
    assert settings.secrets == tmp_path / "secrets.json"
    assert (settings.lease_duration, settings.heartbeat_interval, settings.margin) == (
        120 * SECOND,
        30 * SECOND,
        5 * SECOND,
    )
    assert settings.code_lifetime == 24 * 3600 * SECOND
    assert settings.outcome_retention == 7 * 24 * 3600 * SECOND


def test_data_directory_of_a_user_is_in_the_state_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert load_settings({}).data == tmp_path / "state" / "poolkeeper"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert load_settings({}).data == Path("/var/lib/poolkeeper")


def test_command_line_goes_before_environment_before_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "poolkeeper.toml").write_text('listen = "127.0.0.1:1"\nhttp_listen = "127.0.0.1:1"\nmargin = "6s"\n')
    monkeypatch.setenv("POOLKEEPER_SERVER_LISTEN", "127.0.0.1:2")
    monkeypatch.setenv("POOLKEEPER_SERVER_HTTP_LISTEN", "127.0.0.1:2")
    settings = load_settings({"data": tmp_path, "listen": "127.0.0.1:3", "http_listen": None})
    assert (settings.listen.port, settings.http_listen.port, settings.margin) == (3, 2, 6 * SECOND)


def test_environment_names_the_file_and_the_command_line_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "a.toml").write_text('lease_duration = "100s"')
    (tmp_path / "b.toml").write_text("lease_duration = 101")
    monkeypatch.setenv("POOLKEEPER_SERVER_CONFIG", str(tmp_path / "a.toml"))
    assert load_settings({}).lease_duration == 100 * SECOND
    assert load_settings({}, file=tmp_path / "b.toml").lease_duration == 101 * SECOND


def test_unknown_key_in_the_file_is_refused_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "poolkeeper.toml").write_text('lisen = "127.0.0.1:1"')
    with pytest.raises(ConfigurationError) as caught:
        load_settings({"data": tmp_path})
    assert "lisen" in caught.value.message
    assert str(tmp_path / "poolkeeper.toml") in caught.value.message
    assert caught.value.hint == "Did you mean listen?"


def test_unknown_variable_is_refused_with_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POOLKEEPER_SERVER_MARGN", "5s")
    with pytest.raises(ConfigurationError) as caught:
        load_settings({})
    assert "POOLKEEPER_SERVER_MARGN" in caught.value.message
    assert caught.value.hint == "Did you mean POOLKEEPER_SERVER_MARGIN?"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("listen = ", "not valid TOML"),
        ('listen = "7443"', "HOST:PORT"),
        ('listen = "::1:7443"', "brackets"),
        ('listen = ":7443"', "no host"),
        ('listen = "127.0.0.1:70000"', "65535"),
        ('margin = "soon"', "span"),
        ("margin = true", "span"),
        ("queue_bound = 1", "queue_bound"),
        ('tls = "on"', "tls"),
    ],
)
def test_bad_value_is_refused_naming_the_file(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "poolkeeper.toml").write_text(content)
    with pytest.raises(ConfigurationError) as caught:
        load_settings({"data": tmp_path})
    assert said in caught.value.message
    assert str(tmp_path / "poolkeeper.toml") in caught.value.message


@pytest.mark.invariant("SECRETS")
def test_a_database_s_password_stands_in_no_error_and_in_no_file_that_others_can_read(tmp_path: Path) -> None:
    file = tmp_path / "my settings.toml"
    url = "postgresql://licences:hush@db/licences"
    file.write_text(f'database = "{url}"\n')
    file.chmod(0o640)
    with pytest.raises(ConfigurationError, match="open to others") as caught:
        load_settings({"data": tmp_path}, file=file)
    assert f"chmod 600 {shlex.quote(str(file))}" in caught.value.hint
    file.chmod(0o600)
    assert load_settings({"data": tmp_path}, file=file).database == url
    with pytest.raises(ConfigurationError) as refused:
        load_settings({"data": tmp_path, "database": url.replace("postgresql", "mysql")})
    assert "mysql://licences:…@db/licences" in str(refused.value)


def test_missing_file_is_refused_when_it_was_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no settings file"):
        load_settings({}, file=tmp_path / "absent.toml")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"lease_duration": "5s"}, "lease_duration is 5s"),
        ({"lease_duration": "89s"}, "third of lease_duration"),
        ({"heartbeat_interval": "1s"}, "at least 2s"),
        ({"margin": "2s"}, "set margin to at least 2024ms"),
        ({"lease_duration": "5d"}, "set margin to at least 88400ms"),
        ({"lease_duration": "121h"}, "6s to 5d"),
        ({"outcome_retention": "1d"}, "late retry"),
        ({"code_lifetime": "31d"}, "1m to 30d"),
        ({"listen": "0.0.0.0:7443", "tls": "off"}, "other machines can reach"),
        ({"certificate": "/a"}, "private_key is not"),
        ({"certificate": "/a", "private_key": "/b", "tls": "off"}, "certificate is set and tls is off"),
    ],
)
def test_values_that_do_not_fit_together_are_refused(values: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(values)
    assert said in str(caught.value)
    assert caught.value.hint


def test_shortest_pool_settings_are_allowed() -> None:
    settings = load_settings({"lease_duration": "6s", "heartbeat_interval": "2s", "margin": "2500ms"})
    assert settings.margin == 2_500_000


def test_plain_is_allowed_on_loopback_and_elsewhere_when_told() -> None:
    assert load_settings({"tls": "off", "listen": "[::1]:0"}).listen == Address("::1", 0)
    assert load_settings({"tls": "off-anywhere", "listen": "0.0.0.0:1"}).tls == "off-anywhere"
    assert load_settings({"listen": "0.0.0.0:1"}).tls == "auto"


@pytest.mark.parametrize(
    ("text", "loopback"),
    [("localhost:1", True), ("127.0.0.9:1", True), ("[::1]:1", True), ("[::]:1", False), ("example.com:1", False)],
)
def test_an_address_knows_whether_others_reach_it_and_prints_as_it_was_read(text: str, loopback: bool) -> None:  # noqa: FBT001  # a parameter
    address = Address.parse(text)
    assert address.is_loopback is loopback
    assert str(address) == text
