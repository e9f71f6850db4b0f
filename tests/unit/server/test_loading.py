"""What a start loads: no more than it needs, which is most of what it takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

#: What only the making or upgrading of a schema needs, and what only PostgreSQL does.
_UPGRADING = {"alembic", "mako"}
_ELSEWHERE = {"asyncpg"}
_START = """
import asyncio, gc, json, sys
from pathlib import Path
from poolkeeper_server.cli import serve
from poolkeeper_server import daemon

async def start(settings):
    async with daemon.serving(settings):
        pass

daemon.run = lambda settings: asyncio.run(start(settings))
assert serve(data=Path(sys.argv[1]), listen="127.0.0.1:0", http_listen="127.0.0.1:0") == 0
assert gc.isenabled() and gc.get_freeze_count()
"""
_COMMAND = """
import io, json, sys
from poolkeeper.cli import main

written, sys.stdout = sys.stdout, io.StringIO()
main(sys.argv[1:])
sys.stdout = written
"""
_REPORT = "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"


def loaded(program: str, *words: str, directory: Path) -> set[str]:
    """The packages that a program has loaded at its end."""
    done = subprocess.run(
        [sys.executable, "-c", program + _REPORT, *words],
        capture_output=True,
        text=True,
        check=True,
        env={"HOME": str(directory), "POOLKEEPER_IDENTITY": str(directory / "identity")},
    )
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return set(found)


def test_a_start_on_a_store_of_this_release_loads_nothing_that_upgrades_one(tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    first = loaded(_START, data, directory=tmp_path)
    later = loaded(_START, data, directory=tmp_path)
    assert first >= _UPGRADING
    assert not later & (_UPGRADING | _ELSEWHERE)


def test_no_command_but_the_daemons_loads_the_daemon(tmp_path: Path) -> None:
    for words in (["--help"], ["run", "--product", "encoder", "--", "true"], ["estate", "list"], ["estate", "--help"]):
        found = loaded(_COMMAND, *words, directory=tmp_path)
        assert not found & {"poolkeeper_server", "sqlalchemy", "pydantic", "structlog"}, words
        assert "cyclopts" in found


def test_the_help_of_the_daemons_command_does_not_load_the_daemon(tmp_path: Path) -> None:
    found = loaded(_COMMAND, "serve", "--help", directory=tmp_path)
    assert "poolkeeper_server" in found
    assert not found & {"sqlalchemy", "grpc", "pydantic"}
