"""The proxy in front of a daemon, as deploy/haproxy has it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final

import pytest

from tests.process.daemon import COMMAND, REPOSITORY, Daemon, eventually

RECIPE: Final = REPOSITORY / "deploy/haproxy/poolkeeper.cfg"


@dataclass
class Front:
    """HAProxy with the recipe, in front of a daemon."""

    daemon: FrontedDaemon
    process: Any = None
    port: int = field(default=0)

    @property
    def address(self) -> str:
        """HOST:PORT for clients."""
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Starts it, on a port that it is given open."""
        program = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
        if program is None:
            pytest.skip("haproxy is not installed on this machine")
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.port = listening.getsockname()[1]
            with self.daemon.log_file.open("a") as log:
                self.process = subprocess.Popen(  # noqa: ASYNC220 - as Processes.start
                    ["setpriv", "--pdeathsig", "KILL", "--", program, "-db", "-f", str(RECIPE)],
                    pass_fds=[listening.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=os.environ
                    | {
                        "POOLKEEPER_FRONT": f"fd@{listening.fileno()}",
                        "POOLKEEPER_DAEMON": self.daemon.address,
                        "POOLKEEPER_FRONT_CERTIFICATE": str(self.daemon.front_certificate),
                        "POOLKEEPER_CA": str(self.daemon.data / "ca.pem"),
                    },
                )
            self.daemon.processes.started.append(self.process)
            await eventually(self._answers, f"the proxy: {self.daemon.log}")

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.daemon.log
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return "Threads:\t1\n" not in status or os.cpu_count() == 1


@dataclass
class FrontedDaemon(Daemon):
    """A daemon that believes a proxy on this machine, and has a certificate for it."""

    command_line: ClassVar[tuple[str, ...]] = COMMAND

    def __post_init__(self) -> None:
        self.environment = self.environment | {
            "POOLKEEPER_SERVER_TRUSTED_FRONTS": "127.0.0.1",
            "POOLKEEPER_SERVER_FRONT_CERTIFICATE": str(self.front_certificate),
        }

    @property
    def front_certificate(self) -> Path:
        """What it writes for the proxy."""
        return self.data.with_name("front.pem")
