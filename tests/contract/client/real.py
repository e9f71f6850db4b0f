"""A real daemon as a backend: on an event loop of its own, with time that the test drives."""

import asyncio
import concurrent.futures
import contextlib
import threading
import urllib.request
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Self, TypeVar

import grpc
import grpc.aio
from google.protobuf.field_mask_pb2 import FieldMask

from poolkeeper.v1 import admin_pb2
from poolkeeper_server.config import load_settings
from poolkeeper_server.daemon import serving
from tests.contract.client.backend import LEASE, ManualClock
from tests.contract.client.wire import Wire
from tests.inprocess.installation import Admin, DrivenTime, Installation, span

T = TypeVar("T")

POOL = "estates/acme/pools/west"
MARGIN = 5.0
HEARTBEAT = 2.0
HEARTBEATS = 'poolkeeper_stream_messages_total{kind="heartbeat"}'


class _Installation(Installation):
    """Comes back at the address of before, and has TLS when it is told to."""

    async def start(self) -> None:
        self._stack = contextlib.AsyncExitStack()
        given = {
            "data": self.data,
            "listen": "127.0.0.1:0",
            "http_listen": "127.0.0.1:0",
            **self.options,
        }
        settings = load_settings(given, file=None)
        self.daemon = await self._stack.enter_async_context(serving(settings, source=self.time, periodic=False))
        self.options["listen"] = address = str(self.daemon.grpc.address)
        if self.daemon.authority:
            credentials = grpc.ssl_channel_credentials(self.daemon.authority.encode())
            named = [("grpc.ssl_target_name_override", "poolkeeper")]
            channel = grpc.aio.secure_channel(address, credentials, options=named)
        else:
            channel = grpc.aio.insecure_channel(address)
        self.channel = await self._stack.enter_async_context(channel)
        self.admin = Admin(self.channel, self.daemon.operator_token)


class SharedClock(ManualClock):
    """A client's clock that goes with the daemon's, as on one machine."""

    def __init__(self, daemon: "RealDaemon") -> None:
        super().__init__()
        self._daemon = daemon

    def now(self) -> float:
        return self._daemon.time.monotonic_now / 1_000_000

    def advance(self, seconds: float) -> None:
        """Lets time pass for both; while the daemon runs, it lives through every second of it."""
        self._daemon.live(seconds)
        super().advance(0)


class RealDaemon:
    """A daemon with a pool acme/west. Clients reach it through a wire that can be cut.

    Its methods may be called from any thread but the daemon's own.
    """

    def __init__(
        self,
        data: Path,
        *,
        tls: bool = False,
        drain_timeout: int = 0,
        database: str | None = None,
        **pool: Any,
    ) -> None:
        """`database` is the URL of a store that is not the embedded one, `pool` are settings of the pool."""
        self.time = DrivenTime()
        options: dict[str, Any] = {"tls": "auto" if tls else "off", "drain_timeout": drain_timeout}
        if database is not None:
            options["database"] = database
        self.installation = _Installation(data, self.time, options)
        self._pool = {"lease_duration": LEASE, "heartbeat_interval": HEARTBEAT, "margin": MARGIN, **pool}
        self._tls = tls
        self._products = 0
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="daemon", daemon=True)
        self.wire = Wire(0)
        self._draining: concurrent.futures.Future[None] | None = None
        self._running = False

    def __enter__(self) -> Self:
        self._thread.start()
        self.start()
        self.run(self._furnish())
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.wire.release()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of work on the daemon's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    # The backend's part.

    @property
    def address(self) -> str:
        return f"{'' if self._tls else 'plain://'}127.0.0.1:{self.wire.port}"

    @property
    def pin(self) -> str | None:
        return self.installation.daemon.pin or None

    def add_product(self, product: str, *, seats: int, installed: bool = False) -> None:
        self.run(self._add_product(product, seats, "INSTALLED_INSTANCE" if installed else "CONCURRENT_USER"))

    def issue_code(self, node: str = "studio-1", *, replace: bool = False, pool: str = POOL) -> str:
        return self.run(self.installation.code(node, pool, replace=replace))

    def set_minimum_allocation(self, seconds: float) -> None:
        pool = admin_pb2.Pool(name=POOL, minimum_allocation=span(seconds))
        mask = FieldMask(paths=["minimum_allocation"])
        self.ask("pools", "UpdatePool", admin_pb2.UpdatePoolRequest(pool=pool, update_mask=mask))

    def advance(self, seconds: float, *, silent: bool = False) -> None:
        # What goes beyond the promises is an outage to clients that are not silent: it takes nothing from them.
        lived = seconds if silent else min(seconds, LEASE * 0.75)
        self.run(self.installation.pass_by(lived))
        if lived < seconds:
            self.run(self.installation.leap(seconds - lived))

    def revoke(self, allocation: str, **how: Any) -> None:
        request = admin_pb2.ReleaseAllocationRequest(name=allocation, reason="needed elsewhere", **how)
        self.ask("allocations", "ReleaseAllocation", request)

    def revoke_node(self, node: str = "studio-1") -> None:
        request = admin_pb2.RevokeNodeRequest(name=f"estates/acme/nodes/{node}", reason="sold")
        self.ask("nodes", "RevokeNode", request)

    def available(self, product: str) -> int:
        return int(sum(one.counts.available for one in self._holdings(product)))

    def quarantined(self, product: str) -> int:
        return int(sum(one.counts.quarantined for one in self._holdings(product)))

    @property
    def waiting(self) -> int:
        return int(self.pool().waiting)

    def drop_connections(self) -> None:
        self.run(self.wire.cut())

    def stop(self) -> None:
        self.run(self._stop())

    def start(self) -> None:
        self.run(self._start())

    # What else a test of a real daemon wants.

    def ask(self, service: str, method: str, request: Any) -> Any:
        """What an admin service answers; raises Refused."""

        async def asked() -> Any:
            # Made on the daemon's loop, to which the channel belongs.
            return await getattr(getattr(self.installation.admin, service), method)(request)

        return self.run(asked())

    @property
    def direct(self) -> str:
        """The daemon's own address, past the wire."""
        return f"{'' if self._tls else 'plain://'}{self.installation.options['listen']}"

    def pool(self) -> admin_pb2.Pool:
        """The pool as it is now."""
        return self.run(self.installation.pool(POOL))

    def clock(self) -> SharedClock:
        """A clock for clients."""
        return SharedClock(self)

    def live(self, seconds: float) -> None:
        """Lets time pass as a daemon lives through it, or as it does without one."""
        if self._running:
            self.run(self.installation.pass_by(seconds))
        else:
            self.time.pass_by(seconds)

    @property
    def heartbeats(self) -> int:
        """How many came over streams so far, as the daemon tells who watches it."""
        with urllib.request.urlopen(f"http://{self.installation.daemon.http.address}/metrics") as page:
            (line,) = [one for one in page.read().decode().splitlines() if one.startswith(HEARTBEATS)]
        return int(float(line.rpartition(" ")[2]))

    def drain(self) -> None:
        """Begins to stop in order; `drained` says when it is done."""
        self._running = False
        self._draining = asyncio.run_coroutine_threadsafe(self.installation.stop(), self.loop)

    @property
    def drained(self) -> bool:
        return self._draining is not None and self._draining.done()

    def move(self) -> None:
        """Starts again on the same data, at another address; the wire leads there."""
        self.installation.options["listen"] = "127.0.0.1:0"
        self.run(self._start())

    def allocations(self) -> list[Any]:
        """All allocations of the pool that are not over."""
        request = admin_pb2.ListPoolAllocationsRequest(parent=POOL)
        return list(self.ask("allocations", "ListAllocations", request).allocations)

    def _holdings(self, product: str) -> list[admin_pb2.Holding]:
        return [one for one in self.pool().holdings if product in {name.rpartition("/")[2] for name in one.products}]

    async def _start(self) -> None:
        await self.installation.start()
        self._running = True
        self.wire.target = int(str(self.installation.options["listen"]).rpartition(":")[2])
        await self.wire.listen()

    async def _stop(self) -> None:
        # First the wire: clients see what they would see of a crash.
        self._running = False
        await self.wire.close()
        await self.installation.stop()

    async def _furnish(self) -> None:
        await self.installation.estate()
        await self.installation.new_pool("west", **self._pool)

    async def _add_product(self, product: str, seats: int, licensed_by: str) -> None:
        self._products += 1
        order = f"SO-{self._products}"
        await self.installation.product(product)
        await self.installation.licence(seats, product=product, licensed_by=licensed_by, order=order)
        await self.installation.admin.pools.MoveSeats(
            admin_pb2.MoveSeatsRequest(
                source="estates/acme/pools/default",
                target=POOL,
                moves=[admin_pb2.SeatMove(line=order, count=seats)],
            )
        )
