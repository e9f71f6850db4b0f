import json
from pathlib import Path

from poolkeeper.testing import FakeServer
from tests.process.cli.conftest import PRODUCT, Start


def _enrol(poolkeeper: Start, fake: FakeServer, directory: Path, code: str, *words: str) -> tuple[int, str, str]:
    return poolkeeper(
        "enrol", fake.address, "--pool", "acme/west", "--code", code, "--identity", str(directory), *words
    ).end()


def test_a_code_enrols_this_machine(fake: FakeServer, poolkeeper: Start, tmp_path: Path) -> None:
    code = fake.issue_code("studio-9")
    assert _enrol(poolkeeper, fake, tmp_path / "own", code) == (0, "Enrolled as acme/studio-9 in acme/west.\n", "")
    shown = poolkeeper("status", "--json", "--identity", str(tmp_path / "own")).end()
    assert shown[0] == 0
    told = json.loads(shown[1])
    assert (told["node"], told["reachable"]) == ("estates/acme/nodes/studio-9", True)


def test_a_wrong_code_is_refused(fake: FakeServer, poolkeeper: Start, tmp_path: Path) -> None:
    status, out, err = _enrol(poolkeeper, fake, tmp_path / "own", "00000000")
    assert (status, out) == (1, "")
    assert "CODE_NOT_ACCEPTED" in err


def test_a_code_that_cannot_be_one_is_not_sent(fake: FakeServer, poolkeeper: Start, tmp_path: Path) -> None:
    status, _, err = _enrol(poolkeeper, fake, tmp_path / "own", "1234")
    assert status == 2
    assert "8 digits" in err
    assert fake.calls["Enrol"] == 0


def test_a_pending_enrolment_shows_the_fingerprint(fake: FakeServer, poolkeeper: Start, tmp_path: Path) -> None:
    code = fake.issue_code("studio-9")
    fake.fail_next("Enrol", "ENROLMENT_PENDING")
    status, out, err = _enrol(poolkeeper, fake, tmp_path / "own", code)
    assert (status, out) == (1, "")
    assert "an admin must approve this node" in err
    fake.fail_next("Enrol", "ENROLMENT_PENDING")
    waited = _enrol(poolkeeper, fake, tmp_path / "own", code, "--wait", "--json")
    assert waited[0] == 0
    assert json.loads(waited[1])["node"] == "estates/acme/nodes/studio-9"
    fingerprint = waited[2].splitlines()[1].strip()
    assert fingerprint in err


def test_no_daemon_at_the_address_is_status_3(poolkeeper: Start, tmp_path: Path) -> None:
    status, _, err = poolkeeper(
        "enrol", "plain://127.0.0.1:1", "--pool", "a/b", "--code", "12345678", "--identity", str(tmp_path)
    ).end()
    assert status == 3
    assert "no daemon answers" in err


def test_status_shows_what_is_held(fake: FakeServer, run: Start, poolkeeper: Start) -> None:
    program = run("--consumer", "camera-4", "--", "sh", "-c", "echo ready; read -r word")
    assert program.line() == "ready"
    status, out, _ = poolkeeper("status").end()
    assert status == 0
    assert "camera-4" in out
    assert PRODUCT in out
    assert program.end("\n")[0] == 0
    fake.stop()
    status, out, _ = poolkeeper("status").end()
    assert status == 3
    assert "acme/studio-1" in out
