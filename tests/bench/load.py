"""One load on one server: what the generator is told, and what it has measured."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from tests.process.daemon import PRODUCT, REPOSITORY

BUILT: Final = REPOSITORY / ".cache/bench"
#: Seconds that the generator gets beside its own time: it waits at most 10 for a connection, 120 for as many answers as
#: there are callers, and 120 for the last ones.
_PATIENCE: Final = 260.0
#: More connections than these make neither server nor generator quicker.
CONNECTIONS: Final = 64

Work = Literal["no-op", "cycle", "check-out", "batch", "heartbeat", "renewals"]
"""`cycle` is check-out and check-in in turn; `check-out` keeps what it gets; `renewals` renews all sessions of a caller
in one message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A session as the generator needs it: its token, and what its heartbeat says."""

    token: str
    count: int = 0
    digest: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Callers in a closed loop, each with one request under way.

    With more sessions than callers, each caller goes through several of them; a stream belongs to one session.
    """

    work: Work
    callers: int
    addresses: Sequence[str]
    watch: Sequence[int]
    """The processes whose CPU time counts as the server's; the first is the one whose memory is told."""
    stream: bool = False
    sessions: Sequence[Held] = ()
    batch: int = 1
    payload: int = 0
    """Bytes of a request that says nothing."""
    authority: Path | None = None
    """The CA, for TLS."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What came of a load. Latencies are milliseconds: of check-outs where there are any, else of all requests."""

    requests: int
    check_outs: int
    seconds: float
    p50: float
    p99: float
    server_cpu: float = 0.0
    """Seconds."""
    generator_cpu: float = 0.0
    memory: float = 0.0
    """Resident megabytes of the server at the end."""
    sync: float = 0.0
    """Milliseconds that the disk took for an fdatasync just before; 0 where nothing was stored."""
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds

    @property
    def check_out_rate(self) -> float:
        """Check-outs a second, whether or not they came in batches."""
        return self.check_outs / self.seconds

    @property
    def cpu(self) -> float:
        """Microseconds of server CPU for a request."""
        return self.server_cpu / self.requests * 1e6

    @property
    def cores(self) -> float:
        """How many cores the server held."""
        return self.server_cpu / self.seconds


class BrokenBenchmark(Exception):
    """A measurement that did not work; never one that was slow."""


@dataclass
class Generator:
    """A run of the load generator."""

    process: asyncio.subprocess.Process
    time: float

    @classmethod
    async def start(cls, load: Load, *, warm: float, measure: float, directory: Path) -> Generator:
        """Starts it."""
        sessions = directory / "sessions"
        sessions.write_text("".join(f"{one.token} {one.count} {one.digest}\n" for one in load.sessions))
        words = [
            f"--work={load.work}",
            f"--transport={'stream' if load.stream else 'unary'}",
            f"--callers={load.callers}",
            f"--channels={min(load.callers, CONNECTIONS)}",
            f"--targets={','.join(load.addresses)}",
            f"--watch={','.join(map(str, load.watch))}",
            f"--sessions={sessions}",
            f"--product={PRODUCT}",
            f"--batch={load.batch}",
            f"--bytes={load.payload}",
            f"--authority={load.authority or ''}",
            f"--warm={warm}",
            f"--measure={measure}",
        ]
        process = await asyncio.create_subprocess_exec(
            # Should the benchmark be killed, the load goes with it.
            *("setpriv", "--pdeathsig", "KILL", "--", str(BUILT / "generator"), *words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        return cls(process, warm + measure)

    def end(self) -> None:
        """Ends the measured time before it is over."""
        self.process.terminate()

    async def measured(self) -> dict[str, Any]:
        """What it prints. Raises BrokenBenchmark when it failed, or an answer was not the one that it should be."""
        try:
            async with asyncio.timeout(self.time + _PATIENCE):
                out, err = await self.process.communicate()
        except TimeoutError:
            self.process.kill()
            await self.process.wait()
            raise BrokenBenchmark("the load generator does not end") from None
        if self.process.returncode != 0:
            raise BrokenBenchmark(f"the load generator failed: {err.decode().strip()}")
        found: dict[str, Any] = json.loads(out)
        if found["errors"]:
            raise BrokenBenchmark(f"answers that were no success: {found['errors']}")
        return found


def measured_of(found: dict[str, Any], load: Load, *, memory: float, sync: float) -> Measured:
    """What the generator has printed. Raises BrokenBenchmark when it is not plausible."""
    kinds = found["kinds"]
    requests = sum(kind["count"] for kind in kinds.values())
    if not requests or found["seconds"] <= 0:
        raise BrokenBenchmark(f"nothing was answered: {load.work} with {load.callers} callers")
    told = kinds.get("check_out") or next(iter(kinds.values()))
    if not 0 < told["p50"] <= told["p99"]:
        raise BrokenBenchmark(f"latencies that cannot be: {told}")
    if load.work == "batch" and found["check_outs"] != requests * load.batch:
        raise BrokenBenchmark(f"{found['check_outs']} check-outs in {requests} batches of {load.batch}")
    return Measured(
        requests=requests,
        check_outs=found["check_outs"],
        seconds=found["seconds"],
        p50=told["p50"] / 1000,
        p99=told["p99"] / 1000,
        server_cpu=sum(found["server_cpu"]),
        generator_cpu=found["generator_cpu"],
        memory=memory,
        sync=sync,
        details=kinds,
    )
