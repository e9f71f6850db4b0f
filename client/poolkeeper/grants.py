"""Checking a grant offline: the signed statement that a client gets for an allocation."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from poolkeeper.errors import GrantNotValid

_PARTS = 3


def verify_grant(grant: str, keys: Mapping[str, bytes]) -> dict[str, Any]:
    """The claims of a grant whose signature is right.

    `grant` is a compact JWS (RFC 7515) with EdDSA (RFC 8037); `keys` are the installation's raw
    public keys, 32 bytes each, by key id, as GetServerInfo gives them. Whether the claims still hold
    at this moment is for the caller to judge. Raises GrantNotValid.
    """
    parts = grant.split(".")
    if len(parts) != _PARTS:
        raise GrantNotValid("A grant has three parts.")
    try:
        header = json.loads(_decode(parts[0]))
        signature = _decode(parts[2])
    except (ValueError, binascii.Error) as problem:
        raise GrantNotValid("The grant cannot be decoded.") from problem
    # The algorithm is fixed here: what the header says may only agree, never choose.
    if not isinstance(header, dict) or header.get("alg") not in {"EdDSA", "Ed25519"} or "crit" in header:
        raise GrantNotValid("The grant is not signed with EdDSA.")
    key = keys.get(str(header.get("kid", "")))
    if key is None:
        raise GrantNotValid(f"The grant's key {header.get('kid')!r} is not one of the installation's.")
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, f"{parts[0]}.{parts[1]}".encode())
    except (InvalidSignature, ValueError) as problem:
        raise GrantNotValid("The grant's signature is wrong.") from problem
    try:
        claims = json.loads(_decode(parts[1]))
    except (ValueError, binascii.Error) as problem:
        raise GrantNotValid("The grant's claims cannot be decoded.") from problem
    if not isinstance(claims, dict):
        raise GrantNotValid("The grant's claims are not an object.")
    return claims


def _decode(part: str) -> bytes:
    return base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
