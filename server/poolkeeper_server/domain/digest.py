"""The digest by which client and daemon notice that they disagree (CC-29)."""

from __future__ import annotations

from hashlib import sha256

_MODULUS = 2**64


def digest_of(allocation_name: str, quantity: int) -> int:
    """One allocation's part of the sum: the first 8 bytes of SHA-256(name, NUL, quantity)."""
    return int.from_bytes(sha256(f"{allocation_name}\0{quantity}".encode()).digest()[:8], "big")


def add(total: int, part: int) -> int:
    """The sum with a part added, as the signed number that stores keep."""
    return signed((total + part) % _MODULUS)


def subtract(total: int, part: int) -> int:
    """The sum with a part taken away."""
    return signed((total - part) % _MODULUS)


def signed(value: int) -> int:
    """An unsigned 64-bit number as a signed one."""
    return value - _MODULUS if value >= _MODULUS // 2 else value
