"""Where a daemon listens: a host and a port."""

import dataclasses
import ipaddress
from typing import Self

_MOST = 65_535


@dataclasses.dataclass(frozen=True, slots=True)
class Address:
    """A host (a name or an IP address, IPv6 without brackets) and a port; port 0 means any free one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """The address written as HOST:PORT or [IPv6]:PORT.

        Raises ValueError that says what is wrong with the text.
        """
        host, colon, digits = text.strip().rpartition(":")
        if not colon or not (digits.isascii() and digits.isdigit()) or int(digits) > _MOST:
            raise ValueError(f"{text!r} is not HOST:PORT with a port from 0 to {_MOST}")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
            if ":" not in host:
                raise ValueError(f"{text!r} has brackets around something other than an IPv6 address")
        elif ":" in host:
            raise ValueError(f"{text!r} needs brackets around its IPv6 address, as in [::1]:{digits}")
        if not host:
            raise ValueError(f"{text!r} has no host; every interface is 0.0.0.0:{digits} or [::]:{digits}")
        return cls(host, int(digits))

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it; a name other than localhost counts as reachable."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
