"""What the kernel knows of the sockets of a port."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Socket:
    """A TCP socket of this machine."""

    listens: bool
    unread: int
    """Bytes that have arrived and wait for the program; of one that listens, connections."""


def sockets_of(port: int) -> list[Socket]:
    """Those with this local port, by the kernel's tables (proc_pid_net(5)).

    gRPC's are in the second one with IPv4 addresses too, where the machine has IPv6.
    """
    tables = [Path(f"/proc/net/{name}") for name in ("tcp", "tcp6")]
    rows = [line.split()[1:5] for table in tables if table.exists() for line in table.read_text().splitlines()[1:]]
    return [
        Socket(listens=state == "0A", unread=int(queues.rpartition(":")[2], 16))
        for local, _, state, queues in rows
        if int(local.rpartition(":")[2], 16) == port
    ]
