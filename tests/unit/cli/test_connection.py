import os
import shlex
import time
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import RetryInfo

from poolkeeper.v1 import admin_pb2 as pb
from tests.unit.cli.canned import TOKEN, CannedDaemon, Refusal
from tests.unit.cli.conftest import Command


def test_without_a_daemon_the_status_is_3_and_says_how_to_start_one(poolkeeper: Command) -> None:
    done = poolkeeper("estate", "list")
    assert done.status == 3
    assert "poolkeeper serve" in done.err


def test_a_daemon_that_does_not_answer_is_status_3(poolkeeper: Command, daemon: CannedDaemon, tmp_path: Path) -> None:
    daemon.port = 1
    daemon.write_data(tmp_path)
    done = poolkeeper("estate", "list")
    assert done.status == 3
    assert "no daemon answers at plain://127.0.0.1:1" in done.err


def test_a_wrong_token_is_status_4(poolkeeper: Command, daemon: CannedDaemon, tmp_path: Path) -> None:
    del daemon
    (tmp_path / "operator.token").write_text("another")
    done = poolkeeper("estate", "list")
    assert done.status == 4
    assert "token create" in done.err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_an_unreadable_token_is_status_4_with_a_hint(poolkeeper: Command, daemon: CannedDaemon, tmp_path: Path) -> None:
    del daemon
    (tmp_path / "operator.token").chmod(0)
    done = poolkeeper("estate", "list")
    assert done.status == 4
    assert "sudo -u" in done.err


@pytest.mark.invariant("SECRETS")
@pytest.mark.parametrize("given", [False, True], ids=["the operator's", "given"])
def test_a_token_that_others_can_read_is_not_used(
    poolkeeper: Command, daemon: CannedDaemon, tmp_path: Path, *, given: bool
) -> None:
    daemon.answers["ListEstates"] = pb.ListEstatesResponse()
    path = tmp_path / ("my token" if given else "operator.token")
    path.write_text(TOKEN)
    path.chmod(0o644)
    words = ("estate", "list", *(("--token-file", str(path)) if given else ()))
    done = poolkeeper(*words)
    assert (done.status, done.out) == (4, "")
    assert "open to others than its owner (mode 0644)" in done.err
    assert f"chmod 600 {shlex.quote(str(path))}\n" in done.err
    path.chmod(0o600)
    assert poolkeeper(*words).status == 0


def test_a_missing_token_is_status_4(poolkeeper: Command, daemon: CannedDaemon, tmp_path: Path) -> None:
    del daemon
    (tmp_path / "operator.token").unlink()
    done = poolkeeper("estate", "list")
    assert done.status == 4
    assert "--token-file" in done.err


def test_address_and_token_come_from_the_environment(
    poolkeeper: Command, daemon: CannedDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "endpoint.json").unlink()
    (tmp_path / "operator.token").unlink()
    monkeypatch.setenv("POOLKEEPER_ADDRESS", f"plain://127.0.0.1:{daemon.port}")
    monkeypatch.setenv("POOLKEEPER_TOKEN", TOKEN)
    daemon.answers["ListEstates"] = pb.ListEstatesResponse()
    assert poolkeeper("estate", "list").status == 0


def test_the_local_operators_token_is_not_sent_elsewhere(poolkeeper: Command, daemon: CannedDaemon) -> None:
    done = poolkeeper("estate", "list", "--address", "licences.example.com:7443")
    assert done.status == 4
    assert "not the one of this machine" in done.err
    assert daemon.requests == []


@pytest.mark.parametrize("address", ["licences example", "host:port", "plain://licences.example.com:1"])
def test_a_wrong_address_is_status_2(poolkeeper: Command, address: str) -> None:
    assert poolkeeper("estate", "list", "--address", address).status == 2


def test_a_file_that_is_no_certificate_is_status_2(poolkeeper: Command, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    done = poolkeeper("estate", "list", "--address", "localhost:7443", "--token-file", str(token), "--ca", str(token))
    assert done.status == 2
    assert "no certificate" in done.err


def test_a_busy_daemon_is_asked_again_with_the_same_request_id(poolkeeper: Command, daemon: CannedDaemon) -> None:
    soon = RetryInfo(retry_delay=Duration(nanos=1_000_000))
    answers: list[Message | Refusal] = [
        Refusal(Code.UNAVAILABLE, "OVERLOADED", "The queue is full.", (soon,)),
        pb.Estate(name="estates/acme"),
    ]
    daemon.answers["CreateEstate"] = lambda _: answers.pop(0)
    begin = time.monotonic()
    assert poolkeeper("estate", "create", "acme").status == 0
    assert time.monotonic() - begin < 5
    first, second = daemon.requests
    assert first.request_id == second.request_id
