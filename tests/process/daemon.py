"""`poolkeeper serve` as a process of its own: started, killed, stopped, and started again on the same data and port."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final, Self, TypeVar

import grpc
import grpc.aio

from poolkeeper import aio
from poolkeeper.v1 import admin_pb2
from tests.inprocess.installation import Admin, NodeClient

T = TypeVar("T")

REPOSITORY: Final = Path(__file__).parents[2]
COMMAND: Final = (sys.executable, "-m", "poolkeeper.cli")
_STANDBY: Final = (sys.executable, "-m", "tests.process.standby")
PATIENCE: Final = 10.0
"""Seconds that anything may take: more is a failure."""
STARTING: Final = 40.0
"""As PATIENCE, for a process to come up on a machine that is busy with others."""
ESTATE: Final = "estates/acme"
POOL: Final = "estates/acme/pools/west"
PRODUCT: Final = "encoder"
SHORTEST: Final = {"lease_duration": 6.0, "heartbeat_interval": 2.0, "margin": 2.0012}
"""The settings of a pool that gives seats of a crashed client back soonest."""


def now() -> float:
    """Seconds on the clock that every process of this machine shares, the one that the SDK counts on."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


async def eventually(look: Callable[[], T], what: str, *, within: float = PATIENCE) -> T:
    """The first true thing that is seen."""
    end = now() + within
    while not (found := look()):
        assert now() < end, f"not within {within} s: {what}"
        await asyncio.sleep(0.01)
    return found


async def until(instant: float, *, within: float = PATIENCE) -> None:
    """Returns at that instant of `now`."""
    await eventually(lambda: now() >= instant, "an instant", within=within)


@dataclass
class Processes:
    """What a test has started; all of it is ended with the test, by its own id."""

    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(
        self,
        words: Sequence[str],
        *,
        log: Path,
        environment: dict[str, str],
        talks: bool = False,
        waits: bool = False,
    ) -> Any:
        """A process whose errors go to the log.

        One that `talks` is read and written through pipes; of one that `waits` only the input is a pipe.
        """
        with log.open("a") as file:
            process = subprocess.Popen(
                # Should the test itself be killed, nothing that it started stays behind.
                ["setpriv", "--pdeathsig", "KILL", "--", *words],
                stdin=subprocess.PIPE if talks or waits else subprocess.DEVNULL,
                stdout=subprocess.PIPE if talks else file,
                stderr=file,
                text=True,
                cwd=REPOSITORY,
                env=os.environ | environment,
            )
        self.started.append(process)
        return process

    def end(self) -> None:
        """Ends all that runs."""
        for process in self.started:
            process.kill()
            process.communicate(timeout=PATIENCE)
            # What libfaketime leaves behind of a process that was killed.
            for shared in Path("/dev/shm").glob(f"*faketime_*_{process.pid}"):  # noqa: S108 - its place, not ours.
                shared.unlink()


@dataclass(frozen=True, slots=True)
class Done:
    """A command that has ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its output as JSON."""
        return json.loads(self.out)


@dataclass
class Daemon:
    """A daemon on one data directory, and its admin."""

    data: Path
    processes: Processes
    options: tuple[str, ...] = ()
    process: Any = None
    standby: Any = None
    port: str = "0"
    environment: dict[str, str] = field(default_factory=dict)
    """What every start of it has, beside what the one is told."""
    logs: Path | None = None
    """Where its log goes, from all its starts; beside the data directory unless told."""
    command_line: ClassVar[tuple[str, ...]] = COMMAND

    # ---- its life ----

    async def start(self, **environment: str) -> None:
        """Starts it and waits until it is ready; after the first time on the port that it had then."""
        self.launch(**environment)
        await self.ready()

    def launch(self, **environment: str) -> None:
        """Starts it and does not wait."""
        # A daemon that was killed leaves the file, which then tells nothing of the next one.
        self.endpoint_file.unlink(missing_ok=True)
        self.process = self.processes.start(
            [*self.command_line, *self._words], log=self.log_file, environment=self.environment | environment
        )

    def prepare(self, **environment: str) -> None:
        """Has the next one ready, which begins at `relieve`."""
        words = [*_STANDBY, *self._words]
        self.standby = self.processes.start(
            words, log=self.log_file, environment=self.environment | environment, waits=True
        )

    def relieve(self) -> None:
        """Lets the one that is ready take the place of one that has ended, and does not wait."""
        self.endpoint_file.unlink(missing_ok=True)
        self.process, self.standby = self.standby, None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    @property
    def _words(self) -> list[str]:
        words = ["serve", "--data", str(self.data), "--listen", f"127.0.0.1:{self.port}"]
        return [*words, "--http-listen", "127.0.0.1:0", *self.options]

    async def ready(self) -> None:
        """Waits until it serves."""
        await eventually(
            lambda: self.endpoint_file.exists() or self.process.poll() is not None,
            f"a daemon: {self.log}",
            within=STARTING,
        )
        assert self.process.poll() is None, self.log
        self.port = str(self.endpoint["grpc"]).rpartition(":")[2]

    async def kill(self) -> None:
        """As a power cut would end it."""
        self.process.kill()
        await self.ended()

    def terminate(self) -> None:
        """Asks it to stop."""
        self.process.send_signal(signal.SIGTERM)

    async def stop(self) -> int:
        """Stops it in order; gives its exit status."""
        self.terminate()
        return await self.ended()

    async def ended(self, *, within: float = PATIENCE) -> int:
        """Its exit status, once it has ended."""
        await eventually(lambda: self.process.poll() is not None, f"the daemon's end: {self.log}", within=within)
        return int(self.process.returncode)

    def freeze(self) -> None:
        """Stops it from running, without its knowledge."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets it run on."""
        self.process.send_signal(signal.SIGCONT)

    # ---- where it is ----

    @property
    def endpoint_file(self) -> Path:
        """What it writes when it is ready."""
        return self.data / "endpoint.json"

    @property
    def endpoint(self) -> dict[str, Any]:
        """What it has written."""
        found: dict[str, Any] = json.loads(self.endpoint_file.read_text())
        return found

    @property
    def address(self) -> str:
        """HOST:PORT of gRPC."""
        return f"127.0.0.1:{self.port}"

    @property
    def log_file(self) -> Path:
        """Where its log goes."""
        return self.logs or self.data.with_suffix(".log")

    @property
    def log(self) -> str:
        """The log so far."""
        return self.log_file.read_text()

    @property
    def token(self) -> str:
        """The operator's."""
        return (self.data / "operator.token").read_text().strip()

    def channel(self, *others: str) -> grpc.aio.Channel:
        """A new channel to it, which comes back quickly after an outage.

        `others` are ports of daemons besides: then every call goes to the next of those that are there.
        """
        options: list[tuple[str, Any]] = [
            ("grpc.ssl_target_name_override", "poolkeeper"),
            ("grpc.initial_reconnect_backoff_ms", 50),
            ("grpc.max_reconnect_backoff_ms", 200),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        credentials = grpc.ssl_channel_credentials((self.data / "ca.pem").read_bytes())
        if others:
            options.append(("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'))
        target = ",".join(f"127.0.0.1:{port}" for port in (self.port, *others))
        return grpc.aio.secure_channel(f"ipv4:{target}", credentials, options)

    async def command(self, *words: str, **environment: str) -> Done:
        """A `poolkeeper` command of its admin, on the same machine."""
        return await command(*words, POOLKEEPER_SERVER_DATA=str(self.data), **environment)


async def command(*words: str, **environment: str) -> Done:
    """A `poolkeeper` command as a process, run to its end."""

    def run() -> Done:
        done = subprocess.run(
            [*COMMAND, *words],
            env=os.environ | environment,
            cwd=REPOSITORY,
            capture_output=True,
            timeout=STARTING,
            check=False,
        )
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())

    return await asyncio.to_thread(run)


class Office:
    """An admin's connection to a daemon, with an estate to work with; a context manager."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self.channel = await self._stack.enter_async_context(self.daemon.channel())
        self.admin: Any = Admin(self.channel, self.daemon.token)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def studio(self, seats: int, **settings: float) -> None:
        """Estate acme, product encoder, one undated purchase SO-1, and its seats in pool west; settings in seconds."""
        await self.admin.estates.CreateEstate(admin_pb2.CreateEstateRequest(estate_id="acme", title="Acme"))
        await self.admin.products.CreateProduct(admin_pb2.CreateProductRequest(product_id=PRODUCT, title="Encoder"))
        await self.licence(seats, order="SO-1")
        await self.new_pool("west", {"SO-1": seats}, **settings)

    async def licence(self, seats: int, *, order: str, product: str = PRODUCT, **dates: str) -> None:
        """A purchase of concurrent seats."""
        await self.admin.licences.AddLicence(
            admin_pb2.AddLicenceRequest(
                parent=ESTATE,
                products=[product],
                count=seats,
                licensed_by=admin_pb2.LICENSED_BY_CONCURRENT_USER,
                order_number=order,
                **dates,
            )
        )

    async def more_seats(self, seats: int, *, order: str, product: str = PRODUCT, **dates: str) -> None:
        """One more purchase, all of it in pool west."""
        await self.licence(seats, order=order, product=product, **dates)
        move = admin_pb2.SeatMove(line=order, count=seats)
        await self.admin.pools.MoveSeats(
            admin_pb2.MoveSeatsRequest(source=f"{ESTATE}/pools/default", target=POOL, moves=[move])
        )

    async def new_pool(self, pool: str, moves: dict[str, int], **settings: float) -> None:
        """A pool with seats from the Default Pool."""
        wanted = admin_pb2.Pool(title=pool.title())
        for name, value in settings.items():
            getattr(wanted, name).FromMicroseconds(round(value * 1e6))
        await self.admin.pools.CreatePool(
            admin_pb2.CreatePoolRequest(
                parent=ESTATE,
                pool_id=pool,
                pool=wanted,
                moves=[admin_pb2.SeatMove(line=line, count=count) for line, count in moves.items()],
            )
        )

    async def pool(self, pool: str = POOL) -> admin_pb2.Pool:
        """A pool as it is now."""
        found: admin_pb2.Pool = await self.admin.pools.GetPool(admin_pb2.GetPoolRequest(name=pool))
        return found

    async def held(self, pool: str = POOL) -> set[str]:
        """The names of the allocations that take seats."""
        found = await self.admin.allocations.ListAllocations(
            admin_pb2.ListPoolAllocationsRequest(parent=pool, page_size=1000)
        )
        return {one.name for one in found.allocations}

    async def ledger(self, pool: str = POOL) -> list[dict[str, Any]]:
        """The bodies of a pool's ledger entries."""
        items = self.admin.ledgers.ExportLedger(admin_pb2.ExportLedgerRequest(name=pool))
        return [json.loads(item.entry.body) async for item in items if item.WhichOneof("item") == "entry"]

    async def code(self, node: str, pool: str = POOL) -> str:
        """The eight digits of a code."""
        issued = await self.admin.codes.IssueCode(admin_pb2.IssueCodeRequest(parent=pool, node_id=node))
        return str(issued.digits)

    async def node(self, name: str, pool: str = POOL) -> NodeClient:
        """A node that speaks gRPC itself, enrolled, with an open session."""
        node = NodeClient(self.channel)
        await node.enrol(pool, await self.code(name, pool))
        await node.open()
        return node

    async def identity(self, name: str, directory: Path, pool: str = POOL) -> Path:
        """A directory with the identity of a new node, as the SDK keeps it."""
        pin = self.daemon.endpoint["pin"]
        await aio.enrol(self.daemon.address, await self.code(name, pool), pool=pool, pin=pin, identity=directory / name)
        return directory / name


@dataclass
class Caller:
    """A client process, spoken to in lines of JSON."""

    process: Any
    heard: bytearray = field(default_factory=bytearray)

    @classmethod
    async def start(cls, processes: Processes, module: str, *, log: Path, **environment: str) -> Caller:
        """Starts `python -m tests.process.MODULE` and waits until it says that it is ready; the log has why not."""
        words = [sys.executable, "-m", f"tests.process.{module}"]
        caller = cls(processes.start(words, log=log, environment=environment, talks=True))
        assert await caller.hear(within=STARTING) == "ready"
        return caller

    @property
    def pid(self) -> int:
        """Its process id."""
        return int(self.process.pid)

    def send(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        self.process.send_signal(number)

    def tell(self, do: str, **fields: object) -> None:
        """Has it do something."""
        self.process.stdin.write(json.dumps({"do": do, **fields}) + "\n")
        self.process.stdin.flush()

    async def hear(self, *, within: float = PATIENCE) -> Any:
        """What it says next."""
        # Not in a thread: one that is never answered would keep the event loop from closing.
        output = self.process.stdout.fileno()
        readable = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(output, readable.set)
        try:
            async with asyncio.timeout(within):
                while b"\n" not in self.heard:
                    await readable.wait()
                    readable.clear()
                    part = os.read(output, 1 << 16)
                    assert part, "the client process has ended"
                    self.heard += part
        finally:
            loop.remove_reader(output)
        line, _, self.heard = self.heard.partition(b"\n")
        return json.loads(line)

    async def ask(self, do: str, *, within: float = PATIENCE, **fields: object) -> Any:
        """What it says to that."""
        self.tell(do, **fields)
        return await self.hear(within=within)


async def ask_all(callers: Iterable[Caller], do: str, *, within: float = PATIENCE, **fields: object) -> list[Any]:
    """What each says; all are told before the first is heard."""
    asked = list(callers)
    for caller in asked:
        caller.tell(do, **fields)
    return [await caller.hear(within=within) for caller in asked]


def live(data: Path) -> None:
    """Has a daemon serve on a data directory, with an estate and three seats, and stop in order."""
    processes = Processes()

    async def lived() -> None:
        daemon = Daemon(data, processes)
        await daemon.start()
        async with Office(daemon) as office:
            await office.studio(3)
        assert await daemon.stop() == 0

    try:
        asyncio.run(lived())
    finally:
        processes.end()
