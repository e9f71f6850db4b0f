import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from poolkeeper import GrantNotValid, verify_grant

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEYS = {"k1": KEY.public_key().public_bytes_raw()}


def part(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def grant(header: object = None, claims: object = None, key: Ed25519PrivateKey = KEY) -> str:
    signed = ".".join(
        part(json.dumps(one).encode())
        for one in (header or {"alg": "EdDSA", "kid": "k1"}, claims or {"sub": "estates/acme/nodes/n"})
    )
    return f"{signed}.{part(key.sign(signed.encode()))}"


def test_the_claims_of_a_good_grant_are_given() -> None:
    assert verify_grant(grant(), KEYS) == {"sub": "estates/acme/nodes/n"}


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "a.b",
        "!.!.!",
        grant(key=Ed25519PrivateKey.from_private_bytes(bytes(32))),
        grant(header={"alg": "none", "kid": "k1"}),
        grant(header={"alg": "HS256", "kid": "k1"}),
        grant(header={"alg": "EdDSA", "kid": "k2"}),
        grant(header={"alg": "EdDSA"}),
        grant(header={"alg": "EdDSA", "kid": "k1", "crit": ["x"]}),
        grant(header=["EdDSA"]),
        grant(claims=["a"]),
        grant()[:-8],
        grant().replace(".", ".A", 1),
    ],
)
def test_anything_else_is_refused(bad: str) -> None:
    with pytest.raises(GrantNotValid):
        verify_grant(bad, KEYS)
