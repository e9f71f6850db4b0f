"""Whom the SDK believes to be the daemon, and channels to it.

An installation makes a CA of its own, whose *pin* an admin reads out together with the code. To check
it, the daemon's certificate is fetched and taken as the only root of a first connection, over which
nothing but the CA is asked for; its pin must be the one told, and only a second connection, under
that CA, carries the code.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from poolkeeper import _fork
from poolkeeper._core.address import Address
from poolkeeper._core.signing import is_pin, pin_of, same_pin
from poolkeeper.errors import (
    InvalidRequest,
    NotTrusted,
    PinMismatch,
    PoolkeeperError,
    Unreachable,
    from_rpc,
)
from poolkeeper.v1 import licensing_pb2 as pb
from poolkeeper.v1 import licensing_pb2_grpc as rpc

SERVER_NAME = "poolkeeper"
"""The name that every certificate made by a daemon carries, whatever its host is called."""
_PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class Trust:
    """What a daemon's certificate must show. The default is a publicly trusted one for its host."""

    ca_certificate_pem: str = ""
    """The only root; empty: the public ones."""
    server_name: str = ""
    """The name in the certificate; empty: the host's."""
    pin: str = ""


def open_channel(address: Address, trust: Trust) -> grpc.aio.Channel:
    """An asyncio channel to a daemon; nothing is sent before it is used.

    Raises FailedPrecondition in the child of a process that has used gRPC.
    """
    _fork.uses_grpc()
    options: list[tuple[str, Any]] = [
        # A channel made anew must dial anew, not inherit the pause of one that failed before.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_retries", 0),
        # Heartbeats find a dead connection long before; this keeps one with rare heartbeats alive in
        # routers between. Servers end connections that ping more often than every five minutes.
        ("grpc.keepalive_time_ms", 310_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    ]
    if address.plain:
        return grpc.aio.insecure_channel(address.target, options=options)
    if trust.server_name:
        options.append(("grpc.ssl_target_name_override", trust.server_name))
    roots = trust.ca_certificate_pem.encode() or None
    return grpc.aio.secure_channel(address.target, grpc.ssl_channel_credentials(roots), options=options)


async def establish(address: Address, *, pin: str | None, trust_first_use: bool) -> Trust:
    """How to recognise the daemon at an address from now on, checked before it is given.

    With a pin, the daemon's CA must be the pinned one. Without, its certificate must be publicly
    trusted for its host, unless `trust_first_use` says to believe whoever answers now. Raises
    PinMismatch, NotTrusted, InvalidRequest for a pin that cannot be one, and Unreachable.
    """
    if pin is not None and not is_pin(pin):
        raise InvalidRequest(f"{pin!r} is not a pin.", hint="A pin looks like K7QF-2M4D-XR3P.")
    if address.plain:
        return Trust()
    leaf = await _leaf(address)
    if pin is None:
        public = Trust()
        try:
            await _server_info(address, public)
        except Unreachable as problem:
            if not trust_first_use:
                raise NotTrusted(
                    f"Nothing vouches for the certificate of {address}.",
                    hint="Give the pin that came with the code, or say to trust the first use.",
                ) from problem
        else:
            return public
    name = SERVER_NAME if SERVER_NAME in _names(leaf) else ""
    info = await _server_info(address, Trust(ca_certificate_pem=leaf, server_name=name))
    try:
        ca = x509.load_pem_x509_certificate(info.ca_certificate_pem.encode())
    except ValueError as problem:
        raise NotTrusted(f"{address} did not tell its CA.") from problem
    found = pin_of(ca.public_bytes(Encoding.DER))
    if pin is not None and not same_pin(pin, found):
        raise PinMismatch(
            f"The daemon at {address} has the pin {found}, not {pin}.",
            hint="The pin was mistyped, or somebody stands between; the code was not sent.",
        )
    trust = Trust(ca_certificate_pem=info.ca_certificate_pem, server_name=name, pin=found)
    try:
        # Anybody can show the CA's certificate; only the daemon has one that the CA signed.
        await _server_info(address, trust)
    except Unreachable as problem:
        raise NotTrusted(
            f"The certificate of {address} is not signed by the CA that it tells.",
            hint="Somebody may stand between; the code was not sent.",
        ) from problem
    return trust


async def _leaf(address: Address) -> str:
    try:
        return await asyncio.to_thread(ssl.get_server_certificate, (address.host, address.port), timeout=_PATIENCE)
    except ssl.SSLError as problem:
        raise NotTrusted(
            f"{address} does not speak TLS: {problem.reason}.",
            hint="A daemon on loopback without TLS is written plain://HOST:PORT.",
        ) from problem
    except OSError as problem:
        raise Unreachable(f"{address} does not answer: {problem}.") from problem


def _names(leaf: str) -> list[str]:
    certificate = x509.load_pem_x509_certificate(leaf.encode())
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    return names.value.get_values_for_type(x509.DNSName)


async def _server_info(address: Address, trust: Trust) -> pb.GetServerInfoResponse:
    async with open_channel(address, trust) as channel:
        try:
            answer: pb.GetServerInfoResponse = await rpc.LicensingServiceStub(channel).GetServerInfo(
                pb.GetServerInfoRequest(), timeout=_PATIENCE
            )
        except grpc.RpcError as problem:
            raise from_rpc(problem) from problem
    return answer


async def server_info(address: Address, trust: Trust) -> pb.GetServerInfoResponse:
    """Version and public keys of the daemon at an address. Raises PoolkeeperError."""
    try:
        return await _server_info(address, trust)
    except PoolkeeperError as problem:
        if isinstance(problem, Unreachable):
            problem.message = f"{address} does not answer: {problem.message}"
        raise
