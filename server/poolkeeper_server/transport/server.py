"""The gRPC port: licensing, administration, health and reflection on one address.

A server of gRPC for Python takes calls in one by one, at best one for each method, and every one has to pass a thread
and several turns of the loop before the next is looked at. All others wait unread meanwhile, so that of 64 check-outs
at once 14 to 19 came into one transaction. So several servers share the port, to which the kernel deals out
connections (socket(7), SO_REUSEPORT).
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2

from poolkeeper_server.services.address import Address
from poolkeeper_server.services.certificates import ServerCertificate
from poolkeeper_server.services.configuration import ConfigurationError, NotYet, refused_by_system
from poolkeeper_server.services.sources import NOBODY, Fronts
from poolkeeper_server.transport.handlers import LARGEST_MESSAGE, Binding, Door, Gate, handlers_of
from poolkeeper_server.transport.standard import standard_handlers
from poolkeeper_server.transport.strangers import Strangers

#: Servers that share the port. With 8 of them 64 callers did 5 % less, with 4 a fifth less, and with 32 no more.
_SERVERS = 16

#: The name that the daemons of one user hold in turn while they look for their port and take it: it belongs to the
#: network namespace, as ports do, and goes with its socket (unix(7), abstract). No port is shared by several users.
_TURN = f"\0poolkeeper-listens-{os.getuid()}"
#: How many seconds a daemon waits for its turn, and how long it is until it looks again.
_PATIENCE = 5.0
_AGAIN = 0.01

#: Connections of one server of gRPC, however few there may be in all: they are dealt out by chance.
_FEWEST_CONNECTIONS = 8
#: How long a stopping daemon looks away from its calls, in seconds.
_LOOK = 0.005
#: Those of an operator's commands.
_LOCAL_CONNECTIONS = 64

_OPTIONS = (
    # Another program of the same user that sets this too, as gRPC servers do by default, can join later: Linux has no
    # way to share a port with oneself alone. A daemon looks first (_probe), so that two of them never do.
    ("grpc.so_reuseport", 1),
    ("grpc.max_receive_message_length", LARGEST_MESSAGE),
    # For each of the servers: calls that have begun, also those that were taken back, and were not looked at yet. Each
    # takes 8 kB. gRPC drops what exceeds it without a reason, check-ins too, so that it has to be more than a fleet
    # needs that starts at once: a sixteenth of its programs. Our own queue refuses check-outs only (CC-31).
    ("grpc.server.max_pending_requests", 1_500),
    ("grpc.server.max_pending_requests_hard_limit", 3_000),
    # Of one connection: more than a session may wait for, and some to renew and give back meanwhile.
    ("grpc.max_concurrent_streams", 512),
    # Silence is not waited for, neither in a handshake nor after it; gRPC's clients connect again when they need it.
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_connection_idle_ms", 600_000),
    # What nobody has asked for yet is held in 16 kB a call; when it is asked for, gRPC lets all of it in.
    ("grpc.http2.lookahead_bytes", 16_384),
    ("grpc.http2.bdp_probe", 0),
    # Clients may ping to keep idle connections through firewalls, down to every five seconds.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    # A client that vanished without a word is noticed in about a minute and a half.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
)


@dataclass(frozen=True, slots=True)
class GrpcServer:
    """The gRPC servers that share one bound port; `address` has the port that they really got.

    `local` is where programs of this machine reach one more server, however many connections the port has.
    """

    address: Address
    local: str
    _servers: Sequence[grpc.aio.Server]
    _health: health.aio.HealthServicer
    _services: tuple[str, ...]
    _door: Door

    async def start(self) -> None:
        """Serves, with health at SERVING."""
        for server in self._servers:
            await server.start()
        for service in self._services:
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)

    async def report(self, service: str, *, serving: bool) -> None:
        """Says of a service, and of the daemon as a whole, whether it should get new work; the others go on."""
        states = health_pb2.HealthCheckResponse
        for name in (health.OVERALL_HEALTH, service):
            await self._health.set(name, states.SERVING if serving else states.NOT_SERVING)

    async def drain(self) -> None:
        """Turns health to NOT_SERVING for good; from then on every call that comes is told that the daemon stops."""
        await self._health.enter_graceful_shutdown()
        self._door.closed = True

    async def done(self, *, within: float) -> None:
        """Returns when the calls that came before are answered, or after so many seconds."""
        end = time.monotonic() + within
        # Calls only count themselves: each of them is on the path of a check-out.
        while self._door.inside and time.monotonic() < end:  # noqa: ASYNC110 - see above
            await asyncio.sleep(_LOOK)

    async def stop(self, grace: float) -> None:
        """Takes no further connections, and ends what is not done within `grace` seconds."""
        await asyncio.gather(*(server.stop(grace) for server in self._servers))


def bind_server(
    address: Address,
    *,
    certificate: ServerCertificate | None,
    bindings: Sequence[Binding],
    gate: Gate,
    connections: int = 10_000,
    calls_per_second: int = 1_000,
    fronts: Fronts = NOBODY,
) -> GrpcServer:
    """Servers that have their port and do not serve yet; plain when `certificate` is None.

    About so many `connections` are taken at a time: each of the servers has its share of them.

    gRPC gives the port back when they have been started and stopped, or with the end of the process. Raises
    ConfigurationError when the port cannot be had.
    """
    door = Door()
    # Made once: the servers share them.
    strangers, states = Strangers(fronts, calls_per_second=calls_per_second), health.aio.HealthServicer()
    served = {binding.service.full_name: handlers_of(binding, gate, strangers, door) for binding in bindings}
    served |= standard_handlers(states, tuple(served), strangers)
    crowded = [binding.service.full_name for binding in bindings if binding.crowded]
    share = max(_FEWEST_CONNECTIONS, connections // _SERVERS)
    servers = [_serving(served, crowded, connections=share) for _ in range(_SERVERS)]
    port = _bound(servers, address, certificate)
    # A name that no file has (unix(7), abstract) and that goes with the process.
    local, beside = f"unix-abstract:poolkeeper-{uuid4()}", _serving(served, crowded, connections=_LOCAL_CONNECTIONS)
    if certificate is None:
        beside.add_insecure_port(local)
    else:
        beside.add_secure_port(local, _credentials(certificate))
    services = (binding.service.full_name for binding in bindings)
    return GrpcServer(
        Address(address.host, port), local, (*servers, beside), states, (health.OVERALL_HEALTH, *services), door
    )


def _serving(
    served: Mapping[str, dict[str, grpc.RpcMethodHandler[Any, Any]]], crowded: Sequence[str], *, connections: int
) -> grpc.aio.Server:
    """A server of everything, which has no port yet."""
    server = grpc.aio.server(options=(*_OPTIONS, ("grpc.max_allowed_incoming_connections", connections)))
    for service, handlers in served.items():
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    for service in crowded:
        # These go before the generic ones; gRPC before 1.84 knows only those.
        server.add_registered_method_handlers(service, served[service])
    return server


def _credentials(certificate: ServerCertificate) -> grpc.ServerCredentials:
    return grpc.ssl_server_credentials([(certificate.private_key, certificate.chain)])


def _bound(servers: Sequence[grpc.aio.Server], address: Address, certificate: ServerCertificate | None) -> int:
    """Binds all servers to one port, and gives it."""
    credentials = None if certificate is None else _credentials(certificate)
    port = address.port
    try:
        with _in_turn():
            _probe(address)
            for server in servers:
                target = str(Address(address.host, port))
                if credentials is None:
                    port = server.add_insecure_port(target)
                else:
                    port = server.add_secure_port(target, credentials)
    except RuntimeError as error:
        raise NotYet(
            f"gRPC cannot listen on {address}.",
            hint=f"Choose another address with --listen, or allow more open files: it listens {_SERVERS} times.",
        ) from error
    return port


@contextmanager
def _in_turn() -> Iterator[None]:
    """Keeps two daemons from sharing a port, and its calls by chance: both might find it free.

    A daemon holds the name for milliseconds; whoever holds it for longer is not waited for.
    """
    # Where such names are not permitted, daemons start without.
    with ExitStack() as held:
        with suppress(OSError):
            _take_turn(held.enter_context(socket.socket(socket.AF_UNIX)))
        yield


def _take_turn(turn: socket.socket) -> None:
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            turn.bind(_TURN)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() >= end:
                raise
            time.sleep(_AGAIN)
        else:
            return


def _probe(address: Address) -> None:
    """Says in words why an address cannot be listened on; gRPC only says that it cannot.

    A name may stand for several addresses, of which gRPC takes those that it can get. One of them in use is still
    an error: callers would meet either program by chance.
    """
    failures = []
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise unavailable(address, error, option="--listen") from error
    for family, kind, protocol, _, target in found:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(target)
                probe.listen(1)
        except OSError as error:
            failures.append(error)
    decisive = [error for error in failures if error.errno == errno.EADDRINUSE]
    if decisive or len(failures) == len(found):
        cause = (decisive or failures)[0]
        raise unavailable(address, cause, option="--listen") from cause


def unavailable(address: Address, error: OSError, *, option: str) -> ConfigurationError:
    """Why an address cannot be listened on, and what to do."""
    if error.errno == errno.EADDRINUSE:
        return NotYet(
            f"{address} is in use by another program.",
            hint=f"Stop that one, or choose another port with {option}; port 0 takes any free one.",
        )
    if error.errno == errno.EACCES:
        return ConfigurationError(
            f"{address} needs more rights than this user has.", hint=f"Choose a port from 1024 on with {option}."
        )
    what = error.strerror or os.strerror(error.errno or 0)
    return refused_by_system(
        error, f"Nothing can listen on {address}: {what}.", hint=f"Choose an address of this machine with {option}."
    )
