"""A real daemon as a backend: on an event loop of its own, with time that the test drives."""

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Self, TypeVar

import grpc
import grpc.aio
from google.protobuf.field_mask_pb2 import FieldMask

from poolkeeper.v1 import admin_pb2
from poolkeeper_server.config import load_settings
from poolkeeper_server.daemon import serving
from tests.contract.client.backend import LEASE
from tests.contract.client.wire import Wire
from tests.inprocess.installation import Admin, DrivenTime, Installation, span

T = TypeVar("T")

POOL = "estates/acme/pools/west"
MARGIN = 5.0
HEARTBEAT = 2.0


class _Installation(Installation):
    """Comes back at the address of before, and has TLS when it is told to."""

    async def start(self) -> None:
        self._stack = contextlib.AsyncExitStack()
        given = {
            "data": self.data,
            "listen": "127.0.0.1:0",
            "http_listen": "127.0.0.1:0",
            "tls": "off",
            "drain_timeout": 0,
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


class RealDaemon:
    """A daemon with a pool acme/west. Clients reach it through a wire that can be cut.

    Its methods may be called from any thread but the daemon's own.
    """

    def __init__(self, data: Path, *, tls: bool = False, **pool: Any) -> None:  # noqa: ANN401 - settings of many types.
        """`pool` are settings of the pool."""
        self.time = DrivenTime()
        self.installation = _Installation(data, self.time, {"tls": "auto"} if tls else {})
        self._pool = {"lease_duration": LEASE, "heartbeat_interval": HEARTBEAT, "margin": MARGIN, **pool}
        self._tls = tls
        self._products = 0
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="daemon")
        self.wire = Wire(0)

    def __enter__(self) -> Self:
        self._thread.start()
        self.start()
        self.run(self._furnish())
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
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

    def revoke(self, allocation: str, **how: Any) -> None:  # noqa: ANN401 - fields of the request.
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

    def ask(self, service: str, method: str, request: Any) -> Any:  # noqa: ANN401 - many types.
        """What an admin service answers; raises Refused."""

        async def asked() -> Any:  # noqa: ANN401 - as above.
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

    def promise_end(self) -> int:
        """The instant of lease time, in microseconds, up to which the daemon gives no leased seat away."""
        return self.time.monotonic_now + round((LEASE + MARGIN) * 1_000_000)

    def allocations(self) -> list[Any]:
        """All allocations of the pool that are not over."""
        request = admin_pb2.ListPoolAllocationsRequest(parent=POOL)
        return list(self.ask("allocations", "ListAllocations", request).allocations)

    def _holdings(self, product: str) -> list[admin_pb2.Holding]:
        return [one for one in self.pool().holdings if product in {name.rpartition("/")[2] for name in one.products}]

    async def _start(self) -> None:
        await self.installation.start()
        self.wire.target = int(str(self.installation.options["listen"]).rpartition(":")[2])
        await self.wire.listen()

    async def _stop(self) -> None:
        # First the wire: clients see what they would see of a crash.
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
