"""What the installation signs with its Ed25519 key: grants for clients, statements about ledgers."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from poolkeeper_server.services.secrets import Secrets

_STATEMENT = b"poolkeeper-statement-v1\0"


class InvalidGrant(Exception):
    """A grant that this installation did not sign."""


@dataclass(frozen=True, slots=True)
class PublishedKey:
    """A public key of the installation: its id and its 32 raw bytes."""

    key_id: str
    public_key: bytes


@dataclass(frozen=True, slots=True)
class Signature:
    """A detached signature, and the key that made it."""

    key_id: str
    signature: bytes


class Signer:
    """Signs with the newest signing key of the installation; a signature costs about 30 microseconds.

    A grant is a compact JWS (RFC 7515) with alg EdDSA (RFC 8037), written out here: its header never changes, and
    the name that RFC 9864 gives the same algorithm is one that few clients know yet.
    """

    def __init__(self, held: Secrets) -> None:
        keys = {key.key_id: Ed25519PrivateKey.from_private_bytes(key.key) for key in held.signing_keys}
        self._key_id = held.signing_keys[0].key_id
        self._key = keys[self._key_id]
        self._verifying = {_base64(_header(key_id)): key.public_key() for key_id, key in keys.items()}
        self._header = _base64(_header(self._key_id))
        self._published = tuple(
            PublishedKey(
                key_id,
                key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw),
            )
            for key_id, key in keys.items()
        )

    def sign_grant(self, claims: Mapping[str, object]) -> str:
        """The claims as a compact JWS."""
        signed = self._header + b"." + _base64(orjson.dumps(claims))
        return (signed + b"." + _base64(self._key.sign(signed))).decode()

    def verify_grant(self, grant: str) -> dict[str, object]:
        """The claims of a grant of this installation. Raises InvalidGrant for anything else."""
        try:
            header, payload, signature = grant.encode().split(b".")
            self._verifying[header].verify(_bytes(signature), header + b"." + payload)
            claims: dict[str, object] = orjson.loads(_bytes(payload))
        except (ValueError, KeyError, InvalidSignature) as error:
            raise InvalidGrant("The grant was not signed by this installation.") from error
        return claims

    def sign_statement(self, payload: bytes) -> Signature:
        """The signature over a ledger's checkpoint or head."""
        return Signature(self._key_id, self._key.sign(_STATEMENT + payload))

    def published(self) -> tuple[PublishedKey, ...]:
        """Every public key that still verifies, the newest first."""
        return self._published


def _header(key_id: str) -> bytes:
    return orjson.dumps({"alg": "EdDSA", "kid": key_id, "typ": "poolkeeper-grant+jwt"})


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _bytes(text: bytes) -> bytes:
    return base64.urlsafe_b64decode(text + b"==")
