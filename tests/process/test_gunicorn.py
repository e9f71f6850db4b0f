"""The SDK in a host that forks: gunicorn's workers, with the recipe of the manual and without it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from poolkeeper.testing import FakeServer
from tests.process.cli.conftest import until
from tests.process.test_readme import EXAMPLES

#: A web application that holds a seat in each worker, and says so.
APPLICATION = """
import os
import poolkeeper

client = None
# what is done ahead of the fork

def take():
    try:
        seat = (client or poolkeeper.Client(timeout=5)).check_out("enc")
    except poolkeeper.PoolkeeperError as error:
        return f"{type(error).__name__}: {error.message} {error.hint}"
    return f"{os.getpid()} {seat.state}"

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [take().encode()]
"""
#: Told to end before it has set its signals up, a worker does not hear it, and gunicorn waits half a minute for it.
WHEN_UP = """
def post_worker_init(worker):
    open(f"up-{worker.pid}", "w").close()
"""
USED = "with poolkeeper.Client() as first, first.check_out('enc'): pass"
WORKERS = 2


def recipe() -> str:
    """The manual's configuration of gunicorn."""
    (found,) = [str(example) for example in EXAMPLES if "def post_fork" in example]
    return found


@contextmanager
def gunicorn(tmp_path: Path, server: FakeServer, *, configuration: str, preloaded: str = "") -> Iterator[Path]:
    """Serves the application on the socket that is given, until the end; it must end in order."""
    (tmp_path / "application.py").write_text(APPLICATION.replace("# what is done ahead of the fork", preloaded))
    (tmp_path / "gunicorn.conf.py").write_text(configuration + WHEN_UP)
    place = tmp_path / "web"
    command = [sys.executable, "-m", "gunicorn", "--workers", str(WORKERS), "--bind", f"unix:{place}", "application"]
    identity = server.enrol_identity(tmp_path / "identity")
    environment = {"POOLKEEPER_IDENTITY": str(identity), "GRPC_ENABLE_FORK_SUPPORT": "0"}
    with subprocess.Popen(command, cwd=tmp_path, env=os.environ | environment, stderr=subprocess.PIPE) as host:
        try:
            until(lambda: len(list(tmp_path.glob("up-*"))) == WORKERS, "gunicorn's workers do not start")
            yield place
            host.send_signal(signal.SIGTERM)
            assert host.wait(20) == 0
        finally:
            host.kill()


def get(place: Path) -> str:
    """What any of the workers answers."""
    with socket.socket(socket.AF_UNIX) as asked:
        asked.settimeout(10)
        asked.connect(str(place))
        asked.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return asked.makefile("rb").read().decode().rpartition("\r\n\r\n")[2]


@pytest.mark.behaviour("CC-37")
def test_the_manual_s_recipe_for_gunicorn_works(tmp_path: Path) -> None:
    with FakeServer() as server:
        server.add_product("enc", seats=100)
        with gunicorn(tmp_path, server, configuration=recipe() + "\npreload_app = True\n") as place:
            answers = [get(place) for _ in range(6)]
            assert all(re.fullmatch(r"\d+ HELD", answer) for answer in answers), answers
            assert server.available("enc") == 94
        # Each worker has given back what it held.
        assert server.available("enc") == 100


@pytest.mark.behaviour("CC-37")
def test_a_client_before_gunicorn_forks_is_refused_with_the_way_to_do_it(tmp_path: Path) -> None:
    with FakeServer() as server:
        server.add_product("enc", seats=100)
        with gunicorn(tmp_path, server, configuration="preload_app = True\n", preloaded=USED) as place:
            began = time.monotonic()
            answer = get(place)
            assert answer.startswith("FailedPrecondition: This process was forked from one that has used gRPC"), answer
            assert "post_fork" in answer
            assert time.monotonic() - began < 10
        assert server.available("enc") == 100
