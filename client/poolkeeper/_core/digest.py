"""The digest of a session's allocations, kept up to date change by change."""

from __future__ import annotations

import hashlib

_MODULUS = 1 << 64


def weight(name: str, quantity: int) -> int:
    """What one allocation adds to a digest: 8 bytes of SHA-256(name, NUL, quantity in digits)."""
    hashed = hashlib.sha256(b"%b\0%d" % (name.encode(), quantity)).digest()
    return int.from_bytes(hashed[:8], "big")


class Digest:
    """Count and digest of a set of allocations, as a heartbeat carries them (CC-29).

    Every change costs the same, however many allocations there are.
    """

    __slots__ = ("_sizes", "_value")

    def __init__(self) -> None:
        self._sizes: dict[str, int] = {}
        self._value = 0

    def put(self, name: str, quantity: int) -> None:
        """Adds an allocation, or gives one that is known another size."""
        self.drop(name)
        self._sizes[name] = quantity
        self._value = (self._value + weight(name, quantity)) % _MODULUS

    def drop(self, name: str) -> None:
        """Takes an allocation out; one that is not known changes nothing."""
        quantity = self._sizes.pop(name, None)
        if quantity is not None:
            self._value = (self._value - weight(name, quantity)) % _MODULUS

    @property
    def count(self) -> int:
        """How many allocations there are."""
        return len(self._sizes)

    @property
    def value(self) -> int:
        """The sum of their weights modulo 2^64."""
        return self._value

    @property
    def names(self) -> tuple[str, ...]:
        """The allocations' names, in the order they came."""
        return tuple(self._sizes)
