import ipaddress
import re
from pathlib import Path

import pytest
from cryptography import x509

from poolkeeper_server.services.certificates import (
    ServerCertificate,
    given_certificate,
    make_authority,
    own_certificate,
    pin_of,
)
from poolkeeper_server.services.configuration import ConfigurationError


@pytest.fixture(scope="module")
def own() -> ServerCertificate:
    return own_certificate(make_authority(), hosts=("licences.example.com", "192.0.2.7", "::", "no host name"))


def test_the_server_certificate_is_signed_by_the_authority_that_the_pin_names(own: ServerCertificate) -> None:
    leaf, issuer = x509.load_pem_x509_certificates(own.chain)
    leaf.verify_directly_issued_by(issuer)
    assert re.fullmatch(r"[A-Z2-7]{4}-[A-Z2-7]{4}-[A-Z2-7]{4}", own.pin)
    assert own.pin == pin_of(x509.load_pem_x509_certificate(own.authority.encode()))


def test_certificates_are_good_for_the_whole_century(own: ServerCertificate) -> None:
    for certificate in x509.load_pem_x509_certificates(own.chain):
        assert certificate.not_valid_before_utc.year == 2000
        assert certificate.not_valid_after_utc.year == 2100


def test_the_certificate_fits_every_name_by_which_the_daemon_is_reached(own: ServerCertificate) -> None:
    names = x509.load_pem_x509_certificate(own.chain).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.value.get_values_for_type(x509.DNSName) == ["poolkeeper", "localhost", "licences.example.com"]
    assert names.value.get_values_for_type(x509.IPAddress) == [
        ipaddress.ip_address(text) for text in ("127.0.0.1", "::1", "192.0.2.7")
    ]


def test_given_files_are_used_as_they_are(own: ServerCertificate, tmp_path: Path) -> None:
    (tmp_path / "chain.pem").write_bytes(own.chain)
    key = tmp_path / "key.pem"
    key.write_bytes(own.private_key)
    key.chmod(0o640)
    with pytest.raises(ConfigurationError, match="open to others") as caught:
        given_certificate(tmp_path / "chain.pem", key)
    assert f"chmod 600 {key}" in caught.value.hint
    key.chmod(0o600)
    # Certificate authorities' tools keep a link to the newest one.
    (tmp_path / "live.pem").symlink_to(key)
    assert given_certificate(tmp_path / "chain.pem", tmp_path / "live.pem") == own


def test_given_files_that_do_not_fit_are_refused(own: ServerCertificate, tmp_path: Path) -> None:
    other = own_certificate(make_authority(), hosts=())
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    with pytest.raises(ConfigurationError, match="cannot be read"):
        given_certificate(chain, key)
    chain.write_bytes(own.chain)
    with pytest.raises(ConfigurationError, match="no private key"):
        given_certificate(chain, key)
    key.touch(mode=0o600)
    key.write_bytes(other.private_key)
    with pytest.raises(ConfigurationError, match="does not belong"):
        given_certificate(chain, key)
    key.write_bytes(b"none")
    with pytest.raises(ConfigurationError, match="no private key"):
        given_certificate(chain, key)
    chain.write_bytes(b"none")
    with pytest.raises(ConfigurationError, match="no certificate"):
        given_certificate(chain, key)
