"""Whom a node believes before it sends a code."""

import datetime as dt
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

import poolkeeper
from poolkeeper._connector import Transport
from poolkeeper._core.signing import pin_of
from poolkeeper.v1 import licensing_pb2 as pb
from poolkeeper.v1 import licensing_pb2_grpc as rpc
from tests.contract.client.real import RealDaemon


def certificate(
    name: str, *, issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None = None
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A CA, or a server's certificate that another has signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(dt.datetime(2000, 1, 1, tzinfo=dt.UTC))
        .not_valid_after(dt.datetime(2100, 1, 1, tzinfo=dt.UTC))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    if issuer:
        names = x509.SubjectAlternativeName([x509.DNSName("poolkeeper")])
        builder = builder.add_extension(names, critical=False)
    return builder.sign(issuer[1] if issuer else key, hashes.SHA256()), key


class Daemon(rpc.LicensingServiceServicer):
    """Tells a CA and counts the codes that it is sent."""

    def __init__(self, ca: x509.Certificate) -> None:
        self.ca = ca
        self.codes: list[str] = []

    def GetServerInfo(self, request: object, context: object) -> pb.GetServerInfoResponse:  # noqa: N802 - gRPC names it.
        del request, context
        return pb.GetServerInfoResponse(ca_certificate_pem=self.ca.public_bytes(Encoding.PEM).decode())

    def Enrol(self, request: pb.EnrolRequest, context: object) -> pb.EnrolResponse:  # noqa: N802 - as above.
        del context
        self.codes.append(request.code)
        return pb.EnrolResponse(node="estates/acme/nodes/n", pool=request.pool, rolling_secret=b"s")


@dataclass(frozen=True, slots=True)
class Served:
    address: str
    pin: str
    daemon: Daemon


def serve(told: x509.Certificate, signer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey]) -> Iterator[Served]:
    leaf, key = certificate("server", issuer=signer)
    # The stubs call every method abstract; at run time the others answer UNIMPLEMENTED.
    daemon = Daemon(told)  # type: ignore[abstract]  # see above.
    server = grpc.server(futures.ThreadPoolExecutor(4))
    rpc.add_LicensingServiceServicer_to_server(daemon, server)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    credentials = grpc.ssl_server_credentials([(pem, leaf.public_bytes(Encoding.PEM))])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    yield Served(f"127.0.0.1:{port}", pin_of(told.public_bytes(Encoding.DER)), daemon)
    server.stop(grace=None).wait()


@pytest.fixture
def honest() -> Iterator[Served]:
    ca = certificate("ca")
    yield from serve(ca[0], ca)


@pytest.fixture
def impostor(honest: Served) -> Iterator[Served]:
    """Shows the honest daemon's CA, but has no certificate of it."""
    yield from serve(honest.daemon.ca, certificate("another ca"))


def test_a_code_is_sent_under_the_pinned_ca(honest: Served, tmp_path: Path) -> None:
    record = poolkeeper.enrol(
        honest.address, "12345678", pool="acme/west", pin=honest.pin.lower().replace("-", ""), identity=tmp_path
    )
    assert honest.daemon.codes == ["12345678"]
    assert (record.pin, record.server_name) == (honest.pin, "poolkeeper")
    assert record.ca_certificate_pem


def test_no_code_is_sent_to_another_ca(honest: Served, tmp_path: Path) -> None:
    with pytest.raises(poolkeeper.PinMismatch):
        poolkeeper.enrol(honest.address, "12345678", pool="acme/west", pin="K7QF-2M4D-XR3P", identity=tmp_path)
    assert honest.daemon.codes == []


def test_without_a_pin_nothing_is_sent_unless_the_first_use_is_to_be_trusted(honest: Served, tmp_path: Path) -> None:
    with pytest.raises(poolkeeper.NotTrusted):
        poolkeeper.enrol(honest.address, "12345678", pool="acme/west", identity=tmp_path)
    assert honest.daemon.codes == []
    record = poolkeeper.enrol(honest.address, "12345678", pool="acme/west", trust_first_use=True, identity=tmp_path)
    assert record.pin == honest.pin


@pytest.mark.parametrize("trust_first_use", [False, True])
def test_showing_somebody_else_s_ca_gets_no_code(impostor: Served, tmp_path: Path, *, trust_first_use: bool) -> None:
    with pytest.raises(poolkeeper.NotTrusted):
        poolkeeper.enrol(
            impostor.address,
            "12345678",
            pool="acme/west",
            pin=None if trust_first_use else impostor.pin,
            trust_first_use=trust_first_use,
            identity=tmp_path,
        )
    assert impostor.daemon.codes == []


def test_what_is_no_pin_is_refused_before_anything_is_dialled(tmp_path: Path) -> None:
    with pytest.raises(poolkeeper.InvalidRequest):
        poolkeeper.enrol("127.0.0.1:9", "12345678", pool="acme/west", pin="1234", identity=tmp_path)


def test_an_address_where_nobody_listens_is_told(tmp_path: Path) -> None:
    with pytest.raises(poolkeeper.Unreachable):
        poolkeeper.enrol("127.0.0.1:9", "12345678", pool="acme/west", pin="K7QF-2M4D-XR3P", identity=tmp_path)


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[RealDaemon]:
    """A real daemon with a CA of its own."""
    with RealDaemon(tmp_path / "data", tls=True) as daemon:
        daemon.add_product("enc", seats=2)
        yield daemon


@pytest.mark.parametrize("transport", ["stream", "unary"])
def test_under_a_real_daemon_s_ca_all_goes_over_tls(secure: RealDaemon, tmp_path: Path, transport: Transport) -> None:
    directory = tmp_path / "identity"
    record = poolkeeper.enrol(secure.address, secure.issue_code(), pool="acme/west", pin=secure.pin, identity=directory)
    assert record.pin == secure.pin
    with poolkeeper.Client(identity=directory, transport=transport) as client, client.check_out("enc"):
        assert secure.available("enc") == 1
    assert secure.available("enc") == 2


def test_a_real_daemon_is_not_sent_a_code_under_another_pin(secure: RealDaemon, tmp_path: Path) -> None:
    code = secure.issue_code()
    with pytest.raises(poolkeeper.PinMismatch):
        poolkeeper.enrol(secure.address, code, pool="acme/west", pin="K7QF-2M4D-XR3P", identity=tmp_path / "one")
    with pytest.raises(poolkeeper.NotTrusted):
        poolkeeper.enrol(secure.address, code, pool="acme/west", identity=tmp_path / "one")
    # The code was not spent on the way, so another machine can still use it.
    poolkeeper.enrol(secure.address, code, pool="acme/west", trust_first_use=True, identity=tmp_path / "two")


def test_a_node_leaves_a_daemon_with_another_ca_alone(secure: RealDaemon, honest: Served, tmp_path: Path) -> None:
    directory = tmp_path / "identity"
    poolkeeper.enrol(secure.address, secure.issue_code(), pool="acme/west", pin=secure.pin, identity=directory)
    with pytest.raises(poolkeeper.Unreachable), poolkeeper.Client(honest.address, identity=directory, timeout=1):
        pass
