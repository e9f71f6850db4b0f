"""Addresses of daemons, as people write them."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from poolkeeper.errors import InvalidRequest

DEFAULT_PORT = 7443
_PLAIN = "plain://"
_LAST_PORT = 65535


@dataclass(frozen=True, slots=True)
class Address:
    """One address of a daemon."""

    host: str
    port: int
    plain: bool = False
    """Without TLS; only loopback addresses may be."""

    def __str__(self) -> str:
        """The address as `parse_address` reads it."""
        return f"{_PLAIN if self.plain else ''}{self.target}"

    @property
    def target(self) -> str:
        """Host and port as gRPC dials them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_address(text: str) -> Address:
    """An address from `host`, `host:port`, `[::1]:port` or one of them after `plain://`.

    Raises InvalidRequest for anything else, and for `plain://` before an address that is not loopback.
    """
    plain = text.startswith(_PLAIN)
    rest = text.removeprefix(_PLAIN).strip()
    if rest.startswith("["):
        host, _, port = rest[1:].partition("]")
        port = port.removeprefix(":")
    elif rest.count(":") > 1:
        host, port = rest, ""
    else:
        host, _, port = rest.partition(":")
    if not host or "/" in rest or any(char.isspace() for char in rest):
        raise InvalidRequest(
            f"{text!r} is not an address of a daemon.", hint="Write HOST:PORT, for example licences.example.com:7443."
        )
    if port and not (port.isascii() and port.isdecimal() and 0 < int(port) <= _LAST_PORT):
        raise InvalidRequest(f"{port!r} in {text!r} is not a port.", hint="Ports go from 1 to 65535.")
    if plain and not _is_loopback(host):
        raise InvalidRequest(
            f"{text!r} would send licences over the network without TLS.",
            hint="plain:// is for loopback addresses; leave it out and the daemon's certificate is checked.",
        )
    return Address(host=host, port=int(port) if port else DEFAULT_PORT, plain=plain)


def parse_addresses(given: str | Sequence[str]) -> tuple[Address, ...]:
    """Addresses from one text with commas or from several texts, in order and each once."""
    texts = given.split(",") if isinstance(given, str) else list(given)
    addresses = dict.fromkeys(parse_address(text.strip()) for text in texts if text.strip())
    if not addresses:
        raise InvalidRequest(
            "No address of a daemon was given.", hint="Name one, or set POOLKEEPER_ADDRESS to HOST:PORT."
        )
    return tuple(addresses)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
