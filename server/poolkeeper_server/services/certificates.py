"""The installation's CA, the certificate that the daemon shows, and the pin by which clients know it."""

import base64
import datetime as dt
import hashlib
import ipaddress
import re
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from poolkeeper_server.services.configuration import ConfigurationError, refused_by_system
from poolkeeper_server.services.private_file import read_private

FIXED_NAME = "poolkeeper"
"""The name in every server certificate; a client that reaches the daemon by another one asks for this."""

# A wrong civil clock must not lock anybody out: trust rests on the pin, not on dates.
_FIRST = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
_LAST = dt.datetime(2100, 1, 1, tzinfo=dt.UTC)
_HOST_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?")


@dataclass(frozen=True, slots=True)
class Authority:
    """The installation's certificate authority, in PEM."""

    certificate: str
    private_key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ServerCertificate:
    """What the gRPC port shows: chain and key in PEM, the CA for clients, and its pin."""

    chain: bytes
    private_key: bytes = field(repr=False)
    authority: str
    pin: str


def make_authority() -> Authority:
    """A new CA, good from 2000 to 2100. ECDSA P-256, since some TLS stacks do not take Ed25519."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Poolkeeper installation CA")])
    certificate = (
        _builder(subject=name, issuer=name, key=key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate=_pem(certificate).decode(), private_key=_key_pem(key).decode())


def own_certificate(authority: Authority, *, hosts: tuple[str, ...]) -> ServerCertificate:
    """A new server certificate for `hosts` (names or addresses), loopback and the fixed name.

    It is made at every start and lives in memory, so it always fits where the daemon listens.
    """
    issuer = x509.load_pem_x509_certificate(authority.certificate.encode())
    issuer_key = serialization.load_pem_private_key(authority.private_key.encode(), password=None)
    if not isinstance(issuer_key, ec.EllipticCurvePrivateKey):
        raise TypeError("the CA's key is not an elliptic-curve key")
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, FIXED_NAME)])
    certificate = (
        _builder(subject=subject, issuer=issuer.subject, key=key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(_alternative_names(hosts)), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
    return ServerCertificate(
        chain=_pem(certificate) + _pem(issuer),
        private_key=_key_pem(key),
        authority=authority.certificate,
        pin=pin_of(issuer),
    )


def given_certificate(chain: Path, private_key: Path) -> ServerCertificate:
    """The operator's own certificate chain and key.

    The last certificate of the chain stands for the CA: clients may pin it. Raises ConfigurationError that says
    which file is not as it should be.
    """
    chain_pem, key_pem = _read(chain), _read_key(private_key)
    try:
        certificates = x509.load_pem_x509_certificates(chain_pem)
    except ValueError as error:
        raise ConfigurationError(
            f"{chain} holds no certificate in PEM.", hint="Name the file that has the chain, leaf first."
        ) from error
    try:
        key = serialization.load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(
            f"{private_key} holds no private key in PEM without a passphrase.",
            hint="Take the passphrase off with: openssl pkey -in FILE -out NEW",
        ) from error
    if key.public_key() != certificates[0].public_key():
        raise ConfigurationError(
            f"The key in {private_key} does not belong to the first certificate in {chain}.",
            hint="Name the key that the certificate was made for, and put the daemon's own certificate first.",
        )
    return ServerCertificate(
        chain=chain_pem,
        private_key=key_pem,
        authority=_pem(certificates[-1]).decode(),
        pin=pin_of(certificates[-1]),
    )


def pin_of(certificate: x509.Certificate) -> str:
    """Twelve base32 characters (60 bits) of the SHA-256 of the certificate's DER, as K7QF-2M4D-XR3P."""
    digest = hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).digest()
    text = base64.b32encode(digest).decode()
    return f"{text[:4]}-{text[4:8]}-{text[8:12]}"


def _builder(*, subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_FIRST)
        .not_valid_after(_LAST)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative_names(hosts: tuple[str, ...]) -> list[x509.GeneralName]:
    names: dict[str, x509.GeneralName] = {}
    for host in (FIXED_NAME, "localhost", "127.0.0.1", "::1", *hosts):
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            # A machine may be called anything; what is no host name cannot be asked for either.
            if _HOST_NAME.fullmatch(host):
                names[host.lower()] = x509.DNSName(host.lower())
        else:
            if not address.is_unspecified:
                names[str(address)] = x509.IPAddress(address)
    return list(names.values())


def _read_key(path: Path) -> bytes:
    try:
        # Certificate authorities' tools keep links to the newest key.
        return read_private(path, "The private key", links=True)
    except FileNotFoundError as error:
        raise ConfigurationError(f"There is no private key {path}.", hint="Correct the path.") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise refused_by_system(
            error, f"{path} cannot be read: {error.strerror}.", hint="Correct the path, or who may read it."
        ) from error


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: PrivateKeyTypes) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
