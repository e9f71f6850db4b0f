"""A daemon with canned answers, and the `poolkeeper` command beside it."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from poolkeeper.cli import main
from tests.unit.cli.canned import CannedDaemon, serve


@dataclass(frozen=True)
class Outcome:
    """What a person at the terminal got."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def _nothing_configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("ADDRESS", "TOKEN", "CA", "IDENTITY", "SERVER_DATA", "TRACEBACK"):
        monkeypatch.delenv(f"POOLKEEPER_{name}", raising=False)
    monkeypatch.setenv("POOLKEEPER_SERVER_DATA", str(tmp_path))
    monkeypatch.setenv("POOLKEEPER_IDENTITY", str(tmp_path / "identity"))


@pytest.fixture
def poolkeeper(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the command in this process."""

    def run(*words: str) -> Outcome:
        capsys.readouterr()
        status = main(words)
        captured = capsys.readouterr()
        return Outcome(status=status, out=captured.out, err=captured.err)

    return run


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[CannedDaemon]:
    """A daemon whose data directory is the one that commands look into."""
    canned = CannedDaemon()
    server = serve(canned)
    canned.write_data(tmp_path)
    yield canned
    server.stop(grace=None).wait(5)
