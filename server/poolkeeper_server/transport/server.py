"""The gRPC port: licensing, administration, health and reflection on one address.

gRPC takes calls in one by one for each method of a server, and every one has to pass a thread and several turns of the
loop before the next is looked at. All others wait unread meanwhile, so that of 64 check-outs at once a dozen came into
one transaction. So several servers share the port, to which the kernel deals out connections (socket(7), SO_REUSEPORT).
"""

import asyncio
import errno
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from poolkeeper_server.services.address import Address
from poolkeeper_server.services.certificates import ServerCertificate
from poolkeeper_server.services.configuration import ConfigurationError
from poolkeeper_server.transport.handlers import Binding, Gate, handlers_of

LARGEST_MESSAGE = 4 * 1024 * 1024
"""Bytes of the largest request; gRPC refuses larger ones with RESOURCE_EXHAUSTED."""

#: Servers that share the port. With 8 of them 64 callers did 5 % less, with 4 a fifth less, and with 32 no more.
_SERVERS = 16

#: The name that daemons of a network namespace hold in turn while they look for their port and take it (unix(7)).
_TURN = "\0poolkeeper-listens"
#: How many seconds a daemon waits for its turn, and how long it is until it looks again.
_PATIENCE = 5.0
_AGAIN = 0.01

_OPTIONS = (
    ("grpc.so_reuseport", 1),
    ("grpc.max_receive_message_length", LARGEST_MESSAGE),
    # gRPC drops what exceeds its own backlog without a reason, check-ins too; ours refuses check-outs only (CC-31).
    ("grpc.server.max_pending_requests", 100_000),
    ("grpc.server.max_pending_requests_hard_limit", 100_000),
    # Clients may ping to keep idle connections through firewalls, down to every five seconds.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    # A client that vanished without a word is noticed in about a minute and a half.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
)


@dataclass(frozen=True, slots=True)
class GrpcServer:
    """A gRPC server that is bound; `address` has the port that it really got."""

    address: Address
    _servers: Sequence[grpc.aio.Server]
    _health: health.aio.HealthServicer
    _services: tuple[str, ...]

    async def start(self) -> None:
        """Serves, with health at SERVING."""
        for server in self._servers:
            await server.start()
        for service in self._services:
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)

    async def drain(self) -> None:
        """Turns health to NOT_SERVING for good; calls are still served."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace: float) -> None:
        """Takes no further calls, and ends those that are not done within `grace` seconds."""
        await asyncio.gather(*(server.stop(grace) for server in self._servers))


def bind_server(
    address: Address, *, certificate: ServerCertificate | None, bindings: Sequence[Binding], gate: Gate
) -> GrpcServer:
    """A server that has its port and does not serve yet; plain when `certificate` is None.

    Raises ConfigurationError when the port cannot be had.
    """
    served = {binding.service.full_name: handlers_of(binding, gate) for binding in bindings}
    crowded = {binding.service.full_name for binding in bindings if binding.crowded}
    states = health.aio.HealthServicer()

    def server() -> grpc.aio.Server:
        one = grpc.aio.server(options=_OPTIONS)
        for name, handlers in served.items():
            one.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
            if name in crowded:
                # These go before the generic ones; gRPC before 1.84 knows only those.
                one.add_registered_method_handlers(name, handlers)
        health_pb2_grpc.add_HealthServicer_to_server(states, one)
        reflection.enable_server_reflection((*served, health.SERVICE_NAME, reflection.SERVICE_NAME), one)
        return one

    servers = [server() for _ in range(_SERVERS)]
    bound = _bound(servers, address, certificate)
    return GrpcServer(bound, servers, states, (health.OVERALL_HEALTH, *served))


def _bound(servers: Sequence[grpc.aio.Server], address: Address, certificate: ServerCertificate | None) -> Address:
    """The address that all of them have."""
    try:
        with _in_turn():
            _probe(address)
            for server in servers:
                # From the second on it is the port that the first one got.
                address = Address(address.host, _listening(server, address, certificate))
    except RuntimeError as error:
        raise ConfigurationError(
            f"gRPC cannot listen on {address}.", hint="Choose another address with --listen."
        ) from error
    return address


def _listening(server: grpc.aio.Server, address: Address, certificate: ServerCertificate | None) -> int:
    if certificate is None:
        return server.add_insecure_port(str(address))
    credentials = grpc.ssl_server_credentials([(certificate.private_key, certificate.chain)])
    return server.add_secure_port(str(address), credentials)


@contextmanager
def _in_turn() -> Iterator[None]:
    """Keeps two daemons of one user from sharing a port, and its calls by chance: both might find it free.

    Whoever holds the name for longer than a daemon would is none, and is waited for no more.
    """
    with socket.socket(socket.AF_UNIX) as turn:
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            try:
                turn.bind(_TURN)
            except OSError:
                time.sleep(_AGAIN)
            else:
                break
        yield


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
        return ConfigurationError(
            f"{address} is in use by another program.",
            hint=f"Stop that one, or choose another port with {option}; port 0 takes any free one.",
        )
    if error.errno == errno.EACCES:
        return ConfigurationError(
            f"{address} needs more rights than this user has.", hint=f"Choose a port from 1024 on with {option}."
        )
    what = error.strerror or os.strerror(error.errno or 0)
    return ConfigurationError(
        f"Nothing can listen on {address}: {what}.", hint=f"Choose an address of this machine with {option}."
    )
