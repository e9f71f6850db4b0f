"""The servers that are measured, each a process of its own, and the nodes that load a daemon."""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc.aio

from poolkeeper.v1 import licensing_pb2
from tests.bench.load import BUILT, Held
from tests.inprocess.installation import NodeClient, digest_of
from tests.process.daemon import POOL, PRODUCT, STARTING, Daemon, Office, Processes, eventually

#: Seats that no load uses up.
PLENTY: Final = 100_000_000
#: Seconds that a promise holds, so that no session of a long run ends by itself.
PROMISE: Final = {"lease_duration": 86_400.0, "heartbeat_interval": 3_600.0, "margin": 60.0}
#: Nodes that are enrolled at a time.
_AT_ONCE: Final = 16
#: Check-outs of one batch.
_BATCH: Final = 100


class PlainDaemon(Daemon):
    """A daemon without TLS, which loopback permits."""

    @classmethod
    def at(cls, data: Path, processes: Processes, *options: str) -> PlainDaemon:
        """One on that data directory, not started yet."""
        return cls(data, processes, options=("--tls", "off", *options))

    def channel(self, *others: str) -> grpc.aio.Channel:
        """A new channel to it; there are no `others` here."""
        del others
        return grpc.aio.insecure_channel(self.address, [("grpc.use_local_subchannel_pool", 1)])


class UnstoredDaemon(PlainDaemon):
    """One whose transactions take no time."""

    command_line = (sys.executable, "-m", "tests.bench.unstored")


class UndecidedDaemon(PlainDaemon):
    """One that asks and writes what it would, and decides nothing."""

    command_line = (sys.executable, "-m", "tests.bench.undecided")


def delayed(milliseconds: float) -> dict[str, str]:
    """The environment in which every wait for the disk takes so much longer."""
    return {"LD_PRELOAD": str(BUILT / "delay.so"), "BENCH_DELAY": str(round(milliseconds * 1000))}


@dataclass(frozen=True, slots=True)
class Floor:
    """The server that does nothing."""

    pid: int
    address: str

    @classmethod
    async def start(cls, processes: Processes, directory: Path, size: int, *, servers: int = 1) -> Floor:
        """Starts it, as so many servers on one port; its answers have so many bytes."""
        ready = directory / f"floor-{servers}.port"
        words = [sys.executable, "-m", "tests.bench.noop", str(ready), str(size), str(servers)]
        process = processes.start(words, log=directory / f"floor-{servers}.log", environment={})
        await eventually(ready.exists, "the server that does nothing", within=STARTING)
        return cls(process.pid, f"127.0.0.1:{ready.read_text()}")


async def studio(office: Office) -> None:
    """An estate with one pool of seats that no load uses up."""
    await office.studio(PLENTY, **PROMISE)


async def fleet(office: Office, count: int, *, pools: Sequence[str] = (POOL,), name: str = "load") -> list[NodeClient]:
    """So many nodes, each with an open session, spread over the pools in turn."""
    found: list[NodeClient] = []
    numbered = list(zip(range(count), itertools.cycle(pools), strict=False))
    for first in range(0, count, _AT_ONCE):
        some = numbered[first : first + _AT_ONCE]
        found += await asyncio.gather(*(office.node(f"{name}-{number}", pool) for number, pool in some))
    return found


def held(nodes: Sequence[NodeClient]) -> list[Held]:
    """Their sessions, with nothing checked out."""
    return [Held(token=node.token) for node in nodes]


async def sessions_of(node: NodeClient, count: int) -> list[Held]:
    """So many sessions of one node, with nothing checked out."""
    found = []
    for _ in range(count):
        await node.open()
        found.append(Held(token=node.token))
    return found


async def holding(node: NodeClient, count: int) -> Held:
    """A session that has checked so many seats out."""
    granted: list[licensing_pb2.Granted] = []
    for first in range(0, count, _BATCH):
        requests = [
            licensing_pb2.CheckOutRequest(request_id=node.request_id(), product=PRODUCT)
            for _ in range(min(_BATCH, count - first))
        ]
        request = licensing_pb2.BatchCheckOutRequest(requests=requests)
        answer: Any = await node.stub.BatchCheckOut(request, metadata=node.metadata)
        granted += [result.granted for result in answer.results]
    return Held(token=node.token, count=count, digest=digest_of(*granted))


async def sizes(node: NodeClient) -> tuple[int, int]:
    """The bytes of a check-out's request on a stream, and of its unary answer."""
    asked = licensing_pb2.CheckOutRequest(request_id="0123456789abcdef-00-0000-0", product=PRODUCT)
    answer: Any = await node.stub.CheckOut(asked, metadata=node.metadata)
    await node.check_in(answer.granted.allocation.name)
    return licensing_pb2.ConnectRequest(id=10_000, check_out=asked).ByteSize(), answer.ByteSize()
