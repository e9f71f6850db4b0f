from collections.abc import Iterator
from pathlib import Path

import pytest

import poolkeeper
from poolkeeper._connector import Transport
from poolkeeper.testing import FakeServer
from tests.contract.client.backend import LEASE, Backend, identity_of
from tests.contract.client.real import RealDaemon
from tests.postgres import Server


class Fake(FakeServer):
    """The fake server as a backend."""

    @property
    def pin(self) -> str | None:
        return None

    def set_minimum_allocation(self, seconds: float) -> None:
        self._fake.minimum_allocation = seconds


@pytest.fixture(params=["fake", "sqlite", "postgres"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    """What users' tests run against, and what their programs will, on each of the stores: all must behave alike."""
    server: Fake | RealDaemon
    match request.param:
        case "fake":
            server = Fake(lease=LEASE)
        case "sqlite":
            server = RealDaemon(tmp_path / "data")
        case _:
            postgres: Server = request.getfixturevalue("postgres_server")
            database = postgres.new_database(request.getfixturevalue("migrated_template"))
            server = RealDaemon(tmp_path / "data", database=database)
    with server:
        yield server


@pytest.fixture(params=["stream", "unary"])
def transport(request: pytest.FixtureRequest) -> Transport:
    """Over the one stream of a session, or as single calls where no stream gets through."""
    chosen: Transport = request.param
    return chosen


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    """For what only the fake can be told to do, such as losing an answer."""
    with FakeServer(lease=LEASE) as server:
        server.add_product("enc", seats=2)
        yield server


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[RealDaemon]:
    """A real daemon, for what only it can do."""
    with RealDaemon(tmp_path / "data") as server:
        server.add_product("enc", seats=2)
        yield server


@pytest.fixture
def node(daemon: RealDaemon, tmp_path: Path) -> Path:
    """A node that is enrolled at the real daemon."""
    directory = identity_of(tmp_path)
    poolkeeper.enrol(daemon.address, daemon.issue_code(), pool="acme/west", identity=directory)
    return directory


@pytest.fixture
def identity(backend: Backend, tmp_path: Path) -> Path:
    """An enrolled node with two seats to draw from."""
    backend.add_product("enc", seats=2)
    directory = identity_of(tmp_path)
    poolkeeper.enrol(backend.address, backend.issue_code(), pool="acme/west", pin=backend.pin, identity=directory)
    return directory


@pytest.fixture
def fake_identity(fake: FakeServer, tmp_path: Path) -> Path:
    return fake.enrol_identity(identity_of(tmp_path))
