"""The whole way through a real daemon: an admin's day, an enrolment by the printed line, and a program with a seat."""

import json
import os
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.process.cli.conftest import COMMAND, PATIENCE, Start, until

Admin = Callable[..., str]
LICENCE = "licence add acme --product encoder-1x1 --count 10 --licensed-by CONCURRENT_USER --order SO-1001"


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    """The data directory of a daemon that runs."""
    directory = tmp_path / "data"
    words = ["serve", "--data", str(directory), "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]
    log = (tmp_path / "log").open("w")
    with log, subprocess.Popen([*COMMAND, *words], stdout=log, stderr=log) as daemon:
        try:
            until((directory / "endpoint.json").exists, "the daemon does not start")
            yield directory
        finally:
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(PATIENCE)


@pytest.fixture
def admin(data: Path) -> Admin:
    """Runs an admin's command and gives its output."""

    def run(words: str, *, status: int = 0) -> str:
        done = subprocess.run(
            [*COMMAND, *shlex.split(words)],
            env=os.environ | {"POOLKEEPER_SERVER_DATA": str(data)},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout if status == 0 else done.stderr

    return run


@pytest.mark.behaviour("CC-28")
@pytest.mark.parametrize("wrapper", [(), ("nohup",)], ids=["by itself", "under nohup"])
def test_a_hang_up_ends_a_daemon_in_order_unless_it_is_to_be_ignored(tmp_path: Path, wrapper: tuple[str, ...]) -> None:
    directory = tmp_path / "data"
    words = ["serve", "--data", str(directory), "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]
    with subprocess.Popen([*wrapper, *COMMAND, *words], stderr=subprocess.PIPE, stdout=subprocess.PIPE) as daemon:
        try:
            until((directory / "endpoint.json").exists, "the daemon does not start")
            status = Path(f"/proc/{daemon.pid}/status").read_text()
            ignored = int(status.partition("SigIgn:")[2].split()[0], 16)
            assert bool(ignored & 1 << signal.SIGHUP - 1) == bool(wrapper)
            daemon.send_signal(signal.SIGTERM if wrapper else signal.SIGHUP)
            out, err = daemon.communicate(timeout=PATIENCE)
        finally:
            daemon.kill()
    assert daemon.returncode == 0, err
    assert (out + err).count(b"daemon_draining") == 1


def test_from_a_purchase_to_a_program_and_its_proof(admin: Admin, poolkeeper: Start, data: Path) -> None:
    admin("estate create acme --title 'Acme Broadcast'")
    admin("product create encoder-1x1 --unit cameras=1 --unit outputs=1")
    admin(LICENCE)
    admin("pool create acme west --move SO-1001=2 --minimum-allocation 30m")
    assert "NO_SEAT_AVAILABLE" in admin("pool move acme default west SO-1001=9", status=1)
    line = admin("code issue acme/west --node studio-7").splitlines()[-1].split()
    assert line[0] == "poolkeeper"
    assert poolkeeper(*line[1:]).end() == (0, "Enrolled as acme/studio-7 in acme/west.\n", "")
    program = poolkeeper(
        "run", "--product", "encoder-1x1", "--demand", "cameras=2", "--", "sh", "-c", "echo up; read -r word; exit 4"
    )
    assert program.line() == "up"
    held = json.loads(admin("allocation list acme/west --json"))["allocations"]
    assert [(one["node"], one["quantity"]) for one in held] == [("estates/acme/nodes/studio-7", "2")]
    status, _, err = poolkeeper("run", "--product", "encoder-1x1", "--", "true").end()
    assert status == 123
    assert "0 of 2 free" in err
    assert program.end("\n")[0] == 4
    (quarantined,) = json.loads(admin("allocation list acme --json"))["allocations"]
    assert quarantined["state"] == "ALLOCATION_STATE_QUARANTINED"
    admin(f"allocation release {quarantined['name']} --reason test --no-quarantine")
    assert "PROVED: acme/west" in admin("ledger verify acme/west")
    file, keys = data.parent / "west.jsonl", data.parent / "keys.json"
    admin(f"ledger export acme/west --output {file} --keys-out {keys}")
    assert "PROVED" in admin(f"ledger verify --file {file} --keys {keys}")


def test_a_program_with_a_revoked_licence_lets_go_of_its_seat(admin: Admin, poolkeeper: Start) -> None:
    admin("estate create acme")
    admin("product create encoder-1x1")
    admin(LICENCE)
    line = admin("code issue acme/default --node studio-7").splitlines()[-1].split()
    assert poolkeeper(*line[1:]).end()[0] == 0
    program = poolkeeper(
        "run", "--product", "encoder-1x1", "--", "sh", "-c", "echo $POOLKEEPER_ALLOCATION; exec tail -f /dev/null"
    )
    name = program.line()
    admin(f"allocation release {name} --reason 'needed elsewhere'")
    status, _, err = program.end()
    assert status == 124
    assert "needed elsewhere" in err
    assert json.loads(admin("allocation list acme --json"))["allocations"] == []
