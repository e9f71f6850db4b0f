"""The texts that a node signs, and the ways its key and the installation's CA are shown to people."""

from __future__ import annotations

import base64
import hashlib

_PIN_LENGTH = 12
_PIN_GROUP = 4


def enrolment_text(pool: str, code: str) -> bytes:
    """What the proof of an enrolment signs."""
    return b"\0".join((b"poolkeeper-enrol-v1", pool.encode(), code.encode()))


def session_text(node: str, domain: str, challenge: bytes) -> bytes:
    """What opening a session signs."""
    return b"\0".join((b"poolkeeper-session-v1", node.encode(), domain.encode(), challenge))


def fingerprint(public_key: bytes) -> str:
    """SHA-256 of a raw public key in hexadecimal digits, as an admin sees it at a waiting node."""
    return hashlib.sha256(public_key).hexdigest()


def pin_of(certificate_der: bytes) -> str:
    """The pin of a CA certificate in groups: twelve base32 characters of its SHA-256 (RFC 4648)."""
    digits = base64.b32encode(hashlib.sha256(certificate_der).digest()).decode()[:_PIN_LENGTH]
    return "-".join(digits[at : at + _PIN_GROUP] for at in range(0, _PIN_LENGTH, _PIN_GROUP))


def same_pin(one: str, other: str) -> bool:
    """Whether two pins are equal, however they were typed: case, spaces and hyphens do not count."""
    return _bare(one) == _bare(other)


def is_pin(text: str) -> bool:
    """Whether a text could be a pin at all."""
    bare = _bare(text)
    return len(bare) == _PIN_LENGTH and all(char in "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567" for char in bare)


def _bare(pin: str) -> str:
    return "".join(char for char in pin.upper() if char not in "- ")
