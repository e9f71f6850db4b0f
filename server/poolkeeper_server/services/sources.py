"""Where a call comes from, as it is counted and told."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Network = IPv4Network | IPv6Network


def source_of(address: str) -> str:
    """Whom strangers' calls and failures are counted against: an address, or the /64 of an IPv6 one (CC-5)."""
    parsed = _parsed(address)
    if parsed is None:
        return address
    if isinstance(parsed, IPv6Address):
        return str(IPv6Network((int(parsed) >> 64 << 64, 64)))
    return str(parsed)


@dataclass(frozen=True, slots=True)
class Fronts:
    """The proxies in front of the daemon that are believed when they say for whom they call."""

    networks: tuple[Network, ...] = ()

    def caller(self, peer: str, forwarded: Iterable[str]) -> str:
        """The caller's address: that of the peer, or what a trusted one says last in `x-forwarded-for`.

        A front adds the address that it sees behind what a client may have sent itself.
        """
        if not self.networks:
            return peer
        parsed = _parsed(peer)
        if parsed is None or not any(parsed in network for network in self.networks):
            return peer
        said = ",".join(forwarded).rpartition(",")[2].strip()
        return peer if _parsed(said) is None else said


NOBODY = Fronts()
"""No proxy at all."""


def _parsed(address: str) -> IPv4Address | IPv6Address | None:
    """An address without its zone; IPv4 that is written as IPv6 is IPv4."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return None
    return (parsed.ipv4_mapped or parsed) if isinstance(parsed, IPv6Address) else parsed
