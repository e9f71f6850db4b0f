"""A real daemon inside the test, whose time the test drives, with an admin and nodes that speak gRPC to it."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import asyncpg
import grpc
import grpc.aio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from poolkeeper.v1 import admin_pb2, admin_pb2_grpc, errors_pb2, licensing_pb2, licensing_pb2_grpc
from poolkeeper_server.config import load_settings
from poolkeeper_server.daemon import Daemon, serving
from poolkeeper_server.storage.schema import metadata
from poolkeeper_server.storage.sqlite import connect

SECOND = 1_000_000
#: The settings of a pool that are spans, which tests give in seconds.
SPANS = ("minimum_allocation", "lease_duration", "heartbeat_interval", "margin", "reclaim_after", "continuation")
#: 2026-06-01T00:00:00Z: where the hand-driven civil time begins.
BEGINNING = 1_780_272_000 * SECOND


class DrivenTime:
    """A host's clocks, moved by hand: `monotonic` and `civil` in microseconds."""

    def __init__(self) -> None:
        self.monotonic_now = 1_000 * SECOND
        self.civil_now = BEGINNING
        self.boot = "boot-1"

    def monotonic(self) -> int:
        """Microseconds."""
        return self.monotonic_now

    def civil(self) -> int:
        """Microseconds UTC."""
        return self.civil_now

    def boot_time(self) -> int:
        """Microseconds since the boot."""
        return self.monotonic_now

    def boot_id(self) -> str:
        """The boot."""
        return self.boot

    def database(self, told: int) -> int:
        """What a database server says does not count here."""
        del told
        return self.civil_now

    def pass_by(self, seconds: float) -> None:
        """Lets time pass on every clock."""
        self.monotonic_now += round(seconds * SECOND)
        self.civil_now += round(seconds * SECOND)


class Refused(Exception):  # A refusal is what the test wants to look at.
    """A refusal as a client sees it."""

    def __init__(self, status: status_pb2.Status) -> None:
        self.status = status
        self.message = status.message
        self.details = list(status.details)
        info = self.detail(error_details_pb2.ErrorInfo)
        self.reason = info.reason if info is not None else grpc.StatusCode.UNKNOWN.name
        self.hint = dict(info.metadata).get("hint", "") if info is not None else ""
        super().__init__(f"{self.reason}: {self.message}")

    def detail(self, kind: type[Any]) -> Any:
        """The detail of that message type, or None."""
        for packed in self.details:
            found = kind()
            if packed.Unpack(found):
                return found
        return None

    @property
    def denial(self) -> errors_pb2.Denial:
        """The denial's details."""
        found: errors_pb2.Denial | None = self.detail(errors_pb2.Denial)
        if found is None:
            raise AssertionError(f"no denial in {self.status}")
        return found


async def answer(call: Any) -> Any:
    """What a unary call answers. Raises Refused."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        status = rpc_status.from_call(cast("grpc.Call", error))
        if status is None:
            status = status_pb2.Status(code=error.code().value[0], message=error.details() or "")
        raise Refused(status) from None


def span(seconds: float) -> duration_pb2.Duration:
    """A Duration."""
    found = duration_pb2.Duration()
    found.FromMicroseconds(int(seconds * SECOND))
    return found


class Admin:
    """Every admin service by its short name (`admin.pools.GetPool(...)`), with the operator's token."""

    def __init__(self, channel: grpc.aio.Channel, token: str) -> None:
        self._metadata = (("authorization", f"Bearer {token}"),)
        for name in ("Estate", "Product", "Licence", "Pool", "Code", "Node", "Consumer", "Allocation", "Ledger"):
            setattr(self, f"{name.lower()}s", self._service(channel, name))
        for name in ("Clock", "Token", "Alert"):
            setattr(self, f"{name.lower()}s", self._service(channel, name))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

    def _service(self, channel: grpc.aio.Channel, name: str) -> Any:
        stub = getattr(admin_pb2_grpc, f"{name}ServiceStub")(channel)
        metadata = self._metadata

        class Service:
            def __getattr__(self, method: str) -> Any:
                rpc = getattr(stub, method)
                if method == "ExportLedger":
                    return lambda request: rpc(request, metadata=metadata)
                return lambda request: answer(rpc(request, metadata=metadata))

        return Service()


@dataclass
class NodeClient:
    """A node as a foreign client would write it: a key, an identity, and one open session at a time."""

    channel: grpc.aio.Channel
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    name: str = ""
    pool: str = ""
    rolling_secret: bytes = b""
    session: str = ""
    token: str = ""
    requests: Any = field(default_factory=lambda: itertools.count(1))

    @property
    def stub(self) -> Any:
        """The licensing service."""
        return licensing_pb2_grpc.LicensingServiceStub(self.channel)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The session's credential."""
        return (("authorization", f"Bearer {self.token}"),)

    @property
    def public_key(self) -> bytes:
        """Raw Ed25519."""
        return self.key.public_key().public_bytes_raw()

    def request_id(self) -> str:
        """A new one."""
        return f"r{next(self.requests)}"

    async def enrol(self, pool: str, code: str) -> licensing_pb2.EnrolResponse:
        """Redeems a code; `pool` is a full name."""
        signed = b"\0".join((b"poolkeeper-enrol-v1", pool.encode(), code.encode()))
        found: licensing_pb2.EnrolResponse = await answer(
            self.stub.Enrol(
                licensing_pb2.EnrolRequest(
                    pool=pool, code=code, public_key=self.public_key, proof=self.key.sign(signed)
                )
            )
        )
        self.name, self.pool, self.rolling_secret = found.node, found.pool, found.rolling_secret
        return found

    async def open(
        self, *, domain: str = "", challenge: bytes | None = None, host: str = ""
    ) -> licensing_pb2.OpenSessionResponse:
        """Opens a session and keeps its token."""
        if challenge is None:
            challenge = await self.challenge()
        signed = b"\0".join((b"poolkeeper-session-v1", self.name.encode(), domain.encode(), challenge))
        found: licensing_pb2.OpenSessionResponse = await answer(
            self.stub.OpenSession(
                licensing_pb2.OpenSessionRequest(
                    node=self.name,
                    challenge=challenge,
                    signature=self.key.sign(signed),
                    domain=domain,
                    rolling_secret=self.rolling_secret,
                    host=host,
                )
            )
        )
        self.session, self.token, self.rolling_secret = found.session, found.session_token, found.rolling_secret
        return found

    async def challenge(self) -> bytes:
        """A challenge to sign."""
        found = await answer(self.stub.GetChallenge(licensing_pb2.GetChallengeRequest(node=self.name)))
        return bytes(found.challenge)

    async def check_out(self, product: str = "encoder", **fields: Any) -> licensing_pb2.Granted:
        """A unary check-out that must be granted; `fields` are those of CheckOutRequest."""
        fields.setdefault("request_id", self.request_id())
        found = await answer(
            self.stub.CheckOut(licensing_pb2.CheckOutRequest(product=product, **fields), metadata=self.metadata)
        )
        granted: licensing_pb2.Granted = found.granted
        return granted

    async def check_in(self, allocation: str, reason: str = "ENDED", request_id: str = "") -> licensing_pb2.Allocation:
        """Gives an allocation back; answers it as it is then."""
        found = await answer(
            self.stub.CheckIn(
                licensing_pb2.CheckInRequest(
                    request_id=request_id or self.request_id(),
                    allocation=allocation,
                    reason=licensing_pb2.CheckInReason.Value(f"CHECK_IN_REASON_{reason}"),
                ),
                metadata=self.metadata,
            )
        )
        allocation_now: licensing_pb2.Allocation = found.allocation
        return allocation_now

    async def heartbeat(self, *granted: licensing_pb2.Granted, **fields: Any) -> licensing_pb2.HeartbeatResponse:
        """A heartbeat that knows these grants."""
        found: licensing_pb2.HeartbeatResponse = await answer(
            self.stub.Heartbeat(
                licensing_pb2.HeartbeatRequest(allocation_count=len(granted), digest=digest_of(*granted), **fields),
                metadata=self.metadata,
            )
        )
        self.token = found.session_token or self.token
        return found

    async def acknowledge(self, allocation: str, fence: licensing_pb2.Fence) -> licensing_pb2.Allocation:
        """Acknowledges a waiter's grant or a revocation."""
        found = await answer(
            self.stub.Acknowledge(
                licensing_pb2.AcknowledgeRequest(allocation=allocation, fence=fence), metadata=self.metadata
            )
        )
        allocation_now: licensing_pb2.Allocation = found.allocation
        return allocation_now

    async def close(self) -> None:
        """Closes the session."""
        await answer(self.stub.CloseSession(licensing_pb2.CloseSessionRequest(), metadata=self.metadata))

    async def allocations(self) -> list[licensing_pb2.Allocation]:
        """The node's allocations."""
        found = await answer(self.stub.ListAllocations(licensing_pb2.ListAllocationsRequest(), metadata=self.metadata))
        return list(found.allocations)

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[Any]:
        """A Connect stream: `await stream.write(ConnectRequest)` and `await stream.read()`."""
        stream = self.stub.Connect(metadata=self.metadata)
        try:
            yield stream
        finally:
            stream.cancel()


def digest_of(*granted: licensing_pb2.Granted) -> int:
    """A heartbeat's digest, written anew from the protocol's words."""
    from hashlib import sha256  # noqa: PLC0415 # Only here.

    return (
        sum(
            int.from_bytes(sha256(f"{one.allocation.name}\0{one.quantity}".encode()).digest()[:8], "big")
            for one in granted
        )
        % 2**64
    )


@dataclass
class Installation:
    """A running daemon with its time, its admin and as many nodes as the test wants.

    `restart` stops it in order and starts it again on the same data.
    """

    data: Path
    time: DrivenTime
    options: dict[str, Any]
    daemon: Daemon = field(init=False)
    channel: grpc.aio.Channel = field(init=False)
    admin: Any = field(init=False)
    _stack: AsyncExitStack = field(init=False)

    async def start(self) -> None:
        """Starts the daemon."""
        self._stack = AsyncExitStack()
        given = {
            "data": self.data,
            "listen": "127.0.0.1:0",
            "http_listen": "127.0.0.1:0",
            "tls": "off",
            "drain_timeout": 0,
            **self.options,
        }
        self.daemon = await self._stack.enter_async_context(
            serving(load_settings(given, file=None), source=self.time, periodic=False)
        )
        self.channel = await self._stack.enter_async_context(grpc.aio.insecure_channel(str(self.daemon.grpc.address)))
        self.admin = Admin(self.channel, self.daemon.operator_token)

    async def stop(self) -> None:
        """Stops the daemon in order."""
        await self._stack.aclose()

    async def restart(self) -> None:
        """Stops and starts again; nodes must take `node.channel = installation.channel`."""
        await self.stop()
        await self.start()

    async def pass_by(self, seconds: float) -> None:
        """Lets time pass second by second, as a daemon lives through it: with a tick every second."""
        left = round(seconds * SECOND)
        while left > 0:
            step = min(left, SECOND)
            self.time.pass_by(step / SECOND)
            await self.daemon.housekeeping.tick()
            left -= step

    async def leap(self, seconds: float) -> None:
        """Lets time pass in one go: civil time moves, lease time takes it for an outage and stands still."""
        self.time.pass_by(seconds)
        await self.daemon.housekeeping.tick()

    # ---- behind its back ----

    async def sql(self, statement: str) -> list[tuple[Any, ...]]:
        """What the store says to a statement, while the daemon is stopped."""
        if "database" not in self.options:
            connection = connect(self.data / "poolkeeper.sqlite")
            rows = connection.execute(statement).fetchall()
            connection.close()
            return [tuple(row) for row in rows]
        server = await asyncpg.connect(self.options["database"])
        rows = await server.fetch(statement)
        await server.close()
        return [tuple(row) for row in rows]

    async def stored(self) -> bytes:
        """Everything that the store keeps, while the daemon is stopped."""
        if "database" not in self.options:
            files = [path for path in self.data.iterdir() if path.name.startswith("poolkeeper.sqlite")]
            return b"".join(path.read_bytes() for path in files)
        rows = [
            row
            for table in metadata.tables
            for row in await self.sql(f"SELECT t::text FROM {table} AS t")  # noqa: S608 - the schema's own names
        ]
        return "\n".join(str(row[0]) for row in rows).encode()

    # ---- an estate to work with ----

    async def estate(self, estate: str = "acme") -> str:
        """An estate; gives its name."""
        found = await self.admin.estates.CreateEstate(
            admin_pb2.CreateEstateRequest(estate_id=estate, title=estate.title())
        )
        return str(found.name)

    async def product(self, product: str = "encoder", **units: int) -> str:
        """A product; gives its name."""
        found = await self.admin.products.CreateProduct(
            admin_pb2.CreateProductRequest(product_id=product, title=product, units=units)
        )
        return str(found.name)

    async def licence(
        self,
        count: int,
        *,
        estate: str = "estates/acme",
        product: str = "encoder",
        licensed_by: str = "CONCURRENT_USER",
        order: str = "SO-1",
        **fields: Any,
    ) -> admin_pb2.Licence:
        """A purchase."""
        found: admin_pb2.Licence = await self.admin.licences.AddLicence(
            admin_pb2.AddLicenceRequest(
                parent=estate,
                products=[product],
                count=count,
                licensed_by=admin_pb2.LicensedBy.Value(f"LICENSED_BY_{licensed_by}"),
                order_number=order,
                **fields,
            )
        )
        return found

    async def new_pool(
        self, pool: str = "west", *, moves: dict[str, int] | None = None, estate: str = "estates/acme", **settings: Any
    ) -> admin_pb2.Pool:
        """A pool; `settings` are fields of Pool, spans in seconds (minimum_allocation=30)."""
        fields: dict[str, Any] = {name: span(value) if name in SPANS else value for name, value in settings.items()}
        found: admin_pb2.Pool = await self.admin.pools.CreatePool(
            admin_pb2.CreatePoolRequest(
                parent=estate,
                pool_id=pool,
                pool=admin_pb2.Pool(**fields),
                moves=[admin_pb2.SeatMove(line=line, count=count) for line, count in (moves or {}).items()],
            )
        )
        return found

    async def pool(self, pool: str = "estates/acme/pools/west") -> admin_pb2.Pool:
        """A pool as it is now."""
        found: admin_pb2.Pool = await self.admin.pools.GetPool(admin_pb2.GetPoolRequest(name=pool))
        return found

    async def code(self, node: str, pool: str = "estates/acme/pools/west", **fields: Any) -> str:
        """A code's eight digits."""
        found = await self.admin.codes.IssueCode(admin_pb2.IssueCodeRequest(parent=pool, node_id=node, **fields))
        return str(found.digits)

    def stranger(self) -> NodeClient:
        """A node that is not enrolled."""
        return NodeClient(self.channel)

    async def node(self, name: str = "studio-7", pool: str = "estates/acme/pools/west", **fields: Any) -> NodeClient:
        """A node, enrolled, with an open session."""
        node = self.stranger()
        await node.enrol(pool, await self.code(name, pool, **fields))
        await node.open(domain=fields.get("domain", ""))
        return node

    async def studio(self, seats: int = 4, *, licensed_by: str = "CONCURRENT_USER", **settings: Any) -> None:
        """The usual beginning: estate acme, product encoder, a purchase SO-1 of ten (or the seats), pool west."""
        await self.estate()
        await self.product()
        await self.licence(max(10, seats), licensed_by=licensed_by)
        await self.new_pool(moves={"SO-1": seats} if seats else None, **settings)
