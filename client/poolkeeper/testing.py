"""A fake licence server for the tests of programs that use the SDK.

    with FakeServer() as server:
        server.add_product("encoder", seats=2)
        directory = server.enrol_identity(tmp_path)
        with poolkeeper.Client(identity=directory) as client:
            client.check_out("encoder")
            server.advance(minutes * 60)

It speaks real gRPC on a free loopback port, has one pool, and its time stands still unless `advance`
is called. It counts seats, quarantine, promises, waiting, request ids and digests as the daemon does;
it knows no TLS, no demand, no rules, no ledger and no admin API.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent import futures
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import grpc

from poolkeeper import _fork
from poolkeeper._fake_pool import FakePool, Product, Refusal, short
from poolkeeper._fake_service import Servicer
from poolkeeper.identity import Identity, Record
from poolkeeper.v1 import errors_pb2
from poolkeeper.v1 import licensing_pb2 as pb
from poolkeeper.v1 import licensing_pb2_grpc as rpc

_WORKERS: Final = 64
_BEAT: Final = 0.05


class FakeServer:
    """A licence server of one pool whose time the test drives."""

    def __init__(
        self,
        *,
        pool: str = "estates/acme/pools/west",
        lease: float = 120.0,
        heartbeat: float = _BEAT,
        minimum_allocation: float = 0.0,
    ) -> None:
        """Spans are in seconds; `heartbeat` is short so that clients hear of everything soon."""
        self._fake = FakePool(pool=pool, lease=lease, heartbeat=heartbeat, minimum_allocation=minimum_allocation)
        self.pool = pool
        self.calls = self._fake.calls
        """How often each method was called, over the stream too."""
        self._server: grpc.Server | None = None
        self._port = 0

    def __enter__(self) -> Self:
        """Starts serving."""
        self._listen()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stops serving."""
        self.stop()

    # What a test does to it.

    def refuse_streams(self) -> None:
        """Refuses Connect as UNIMPLEMENTED from now on, as a proxy may."""
        self._fake.stream_allowed = False

    @property
    def address(self) -> str:
        """Where it serves, as the SDK takes it."""
        return f"plain://127.0.0.1:{self._port}"

    def add_product(self, product: str, *, seats: int, installed: bool = False) -> None:
        """Adds seats of a product to the pool; `installed` ones live until check-in."""
        with self._fake.lock:
            known = self._fake.products.setdefault(short(product), Product(0, installed))
            known.seats += seats
            self._fake.serve_waiters()

    def issue_code(self, node: str = "studio-1") -> str:
        """Eight digits that enrol a node of that name."""
        with self._fake.lock:
            code = f"{next(self._fake.sequence) + 10_000_000:08d}"
            self._fake.codes[code] = (f"{self._fake.estate}/nodes/{node}", None)
            return code

    def enrol_identity(self, directory: str | os.PathLike[str], node: str = "studio-1") -> Path:
        """Makes an enrolled identity in a directory without a call, and gives the directory back."""
        identity = Identity(directory)
        code = self.issue_code(node)
        with self._fake.lock:
            key = identity.key_for_enrolment(self.pool, code)
            name = self._fake.codes[code][0]
            self._fake.codes[code] = (name, key.public_key)
            self._fake.bind(name, key.public_key)
            record = Record(
                addresses=(self.address,),
                node=name,
                pool=self.pool,
                domain="",
                ca_certificate_pem="",
                server_name="",
                pin="",
                rolling_secret=self._fake.secrets[name][-1],
                attempt=key.attempt(self.pool, code),
            )
            identity.enrolled(record, key)
        return Path(directory)

    def advance(self, seconds: float, *, silent: bool = False) -> None:
        """Lets time pass.

        Clients with an open session are taken to have gone on with their heartbeats; with `silent`
        nobody renews in the meantime, and what is past its promise ends.
        """
        with self._fake.lock:
            self._fake.now += seconds
            for session in self._fake.sessions.values():
                if not silent and session.open:
                    session.expires_at = max(session.expires_at, self._fake.now + self._fake.lease)
                elif session.open and session.expires_at <= self._fake.now:
                    self._fake.end_session(session)
            for seats in self._fake.seats.values():
                over = seats.state in {
                    pb.ALLOCATION_STATE_QUARANTINED,
                    pb.ALLOCATION_STATE_REVOKED,
                }
                if over and seats.free_at <= self._fake.now:
                    seats.state = pb.ALLOCATION_STATE_ENDED
            for waiter in list(self._fake.waiters):
                if waiter.deadline <= self._fake.now:
                    self._fake.waiters.remove(waiter)
                    waiter.answer(refusal=self._fake.denial(waiter.request, "WAIT_EXPIRED"))
            self._fake.serve_waiters()

    def revoke(self, allocation: str) -> None:
        """Ends an allocation as an admin does: its holder is told, and keeps it until it lets go."""
        with self._fake.lock:
            seats = self._fake.seats[allocation]
            seats.held = seats.quantity
            seats.state = pb.ALLOCATION_STATE_REVOKED
            sessions = [self._fake.sessions[name] for name in seats.uses if name]
            seats.free_at = max((one.expires_at for one in sessions), default=self._fake.now)
            notice = pb.AllocationNotice(
                allocation=allocation,
                reason=errors_pb2.REASON_REVOKED,
                message="An admin released the allocation.",
                fence=pb.Fence(epoch=1, sequence=next(self._fake.sequence)),
            )
            for session in sessions:
                session.notices[allocation] = notice
                if session.push is not None:
                    session.push(pb.ConnectResponse(notice=notice))

    def forget(self, allocation: str) -> None:
        """Ends an allocation without a word, as a forced release does."""
        with self._fake.lock:
            seats = self._fake.seats[allocation]
            seats.uses.clear()
            seats.held, seats.state = 0, pb.ALLOCATION_STATE_ENDED

    def revoke_node(self, node: str = "studio-1", *, reason: str = "NODE_REVOKED") -> None:
        """Tells a node that its right has ended for that reason; all it can do is to let go of what it has."""
        name = f"{self._fake.estate}/nodes/{node}"
        notice = pb.AllocationNotice(
            reason=errors_pb2.Reason.Value(f"REASON_{reason}"), message="This node may not go on."
        )
        with self._fake.lock:
            self._fake.ended_nodes[name] = reason
            for session in self._fake.sessions.values():
                if session.node == name and session.push is not None:
                    session.push(pb.ConnectResponse(notice=notice))

    def fail_next(
        self,
        method: str,
        reason: str = "STORE_UNAVAILABLE",
        *,
        retry_after: float | None = None,
        after: bool = False,
    ) -> None:
        """Refuses the next call of a method, such as "CheckOut", for a reason of the protocol.

        With `after` the call has its effect first, as when an answer is lost.
        """
        refusal = Refusal(reason, f"told to fail: {reason}", retry_after=retry_after)
        with self._fake.lock:
            key = f"{method}/after" if after else method
            self._fake.failures.setdefault(key, deque()).append(refusal)

    def drop_connections(self) -> None:
        """Cuts every connection; clients may come back at once."""
        self.stop()
        self._listen()

    def stop(self) -> None:
        """Stops serving until `start`; what it knows it keeps."""
        if self._server is not None:
            with self._fake.lock:
                for waiter in self._fake.waiters:
                    waiter.answer(refusal=Refusal("DRAINING", "The daemon stops."))
                self._fake.waiters.clear()
            self._server.stop(grace=None).wait()
            self._server = None

    def start(self) -> None:
        """Serves again, on the same port."""
        self._listen()

    def available(self, product: str) -> int:
        """Free seats of a product."""
        with self._fake.lock:
            return self._fake.available(short(product))

    def quarantined(self, product: str) -> int:
        """Seats of a product that wait for the end of their minimum allocation time."""
        with self._fake.lock:
            return self._fake.taken(short(product), pb.ALLOCATION_STATE_QUARANTINED)

    @property
    def waiting(self) -> int:
        """How many check-outs wait for a seat."""
        with self._fake.lock:
            return len(self._fake.waiters)

    def _listen(self) -> None:
        _fork.uses_grpc()
        server = grpc.server(
            futures.ThreadPoolExecutor(_WORKERS, thread_name_prefix="fake-server"),
            options=[("grpc.so_reuseport", 0)],
        )
        rpc.add_LicensingServiceServicer_to_server(Servicer(self._fake), server)
        self._port = server.add_insecure_port(f"127.0.0.1:{self._port}")
        server.start()
        self._server = server
