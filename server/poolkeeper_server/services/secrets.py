"""The secrets file: every key of the installation, outside the database and readable by its owner alone."""

import base64
import binascii
import contextlib
import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import orjson
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from poolkeeper_server.services.certificates import Authority, make_authority
from poolkeeper_server.services.configuration import ConfigurationError, refused_by_system
from poolkeeper_server.services.private_file import read_private

_FORMAT = 1
_KEY_BYTES = 32
_CHECKED = b"poolkeeper-secrets-check-v1"


@dataclass(frozen=True, slots=True)
class SecretKey:
    """32 secret bytes and the id by which others say which key they mean."""

    key_id: str
    key: bytes = field(repr=False)

    @classmethod
    def make(cls, prefix: str) -> Self:
        """A new random key."""
        return cls(f"{prefix}{secrets.token_hex(4)}", secrets.token_bytes(_KEY_BYTES))


@dataclass(frozen=True, slots=True, kw_only=True)
class Secrets:
    """Every secret of an installation.

    Of `mac_keys` and `signing_keys` the first makes new tokens, grants and statements; all of them verify.
    Signing keys are Ed25519 seeds.
    """

    mac_keys: tuple[SecretKey, ...]
    code_key: SecretKey
    pseudonym_key: SecretKey
    signing_keys: tuple[SecretKey, ...]
    authority: Authority

    @classmethod
    def make(cls) -> Self:
        """New secrets for a new installation."""
        return cls(
            mac_keys=(SecretKey.make("m"),),
            code_key=SecretKey.make("c"),
            pseudonym_key=SecretKey.make("p"),
            signing_keys=(SecretKey.make("g"),),
            authority=make_authority(),
        )

    def check_value(self) -> str:
        """What the database stores to know these secrets by; it tells nothing of them.

        It covers every key: a file with any other key, one from before a rotation too, has another value.
        """
        keys = (*self.mac_keys, self.code_key, self.pseudonym_key, *self.signing_keys)
        material = b"".join(key.key for key in keys) + self.authority.private_key.encode()
        return hmac.digest(hashlib.sha256(material).digest(), _CHECKED, "sha256").hex()


def open_secrets(path: Path, *, stored_check: str | None) -> Secrets:
    """The secrets in `path`, which is made when it does not exist and `stored_check` is None.

    `stored_check` is the check value that the database has stored, None for a new database. Raises
    ConfigurationError for a file that is missing, malformed, readable by others, or not the one that this
    database was used with.
    """
    if stored_check is None and not os.path.lexists(path):
        _create(path, Secrets.make())
    found = read_secrets(path)
    if stored_check is not None and not hmac.compare_digest(stored_check, found.check_value()):
        raise ConfigurationError(
            f"The secrets in {path} are not those that this database was last used with: they come from another"
            " installation, or from an older backup of this one.",
            hint="Put the file back that belongs to the database, or name it with --secrets.",
        )
    return found


def read_secrets(path: Path) -> Secrets:
    """The secrets in `path`.

    Raises ConfigurationError for a file that is missing, malformed or readable by others than its owner.
    """
    try:
        content = read_private(path, "The secrets file")
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"There is no secrets file {path}, and the database was used with one.",
            hint="Restore it from its backup, or name it with --secrets; without it no node can be recognised.",
        ) from error
    try:
        return _parse(content)
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"The secrets file {path} is damaged, or not a secrets file.",
            hint="Restore it from its backup; do not delete it, the database cannot be used without it.",
        ) from error


def _parse(content: bytes) -> Secrets:
    document = orjson.loads(content)
    if document["format"] != _FORMAT:
        raise ValueError("a format of another release")
    found = Secrets(
        mac_keys=_keys(document["mac_keys"]),
        code_key=_key(document["code_key"]),
        pseudonym_key=_key(document["pseudonym_key"]),
        signing_keys=_keys(document["signing_keys"]),
        authority=Authority(
            certificate=document["authority"]["certificate"],
            private_key=document["authority"]["private_key"],
        ),
    )
    for signing_key in found.signing_keys:
        Ed25519PrivateKey.from_private_bytes(signing_key.key)
    certificate = x509.load_pem_x509_certificate(found.authority.certificate.encode())
    private_key = serialization.load_pem_private_key(found.authority.private_key.encode(), password=None)
    if certificate.public_key() != private_key.public_key():
        raise ValueError("the CA's key does not belong to its certificate")
    return found


def _keys(entries: list[dict[str, str]]) -> tuple[SecretKey, ...]:
    keys = tuple(_key(entry) for entry in entries)
    if not keys or len({key.key_id for key in keys}) != len(keys):
        raise ValueError("no key, or two of one id")
    return keys


def _key(entry: dict[str, str]) -> SecretKey:
    key = binascii.a2b_base64(entry["key"], strict_mode=True)
    if len(key) != _KEY_BYTES or not entry["id"]:
        raise ValueError("a key of the wrong size, or without an id")
    return SecretKey(entry["id"], key)


def _create(path: Path, new: Secrets) -> None:
    """Writes `new` to `path` unless another daemon was quicker; either way a whole file is there."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            with open(descriptor, "wb") as file:  # noqa: PTH123 # Path.open takes no descriptor.
                file.write(_serialised(new))
                file.flush()
                os.fsync(file.fileno())
            # A link, unlike a rename, never takes the place of a file that is there already.
            with contextlib.suppress(FileExistsError):
                path.hardlink_to(draft)
        finally:
            draft.unlink()
        _sync(path.parent)
    except OSError as error:
        raise refused_by_system(
            error,
            f"The secrets file {path} cannot be made: {error.strerror}.",
            hint="Make the directory writable for the user that runs the daemon, or name another file with --secrets.",
        ) from error


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _serialised(new: Secrets) -> bytes:
    def entry(key: SecretKey) -> dict[str, str]:
        return {"id": key.key_id, "key": base64.b64encode(key.key).decode()}

    document = {
        "format": _FORMAT,
        "mac_keys": [entry(key) for key in new.mac_keys],
        "code_key": entry(new.code_key),
        "pseudonym_key": entry(new.pseudonym_key),
        "signing_keys": [entry(key) for key in new.signing_keys],
        "authority": {
            "certificate": new.authority.certificate,
            "private_key": new.authority.private_key,
        },
    }
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
