from collections.abc import Iterator
from pathlib import Path

import pytest

import poolkeeper
from poolkeeper.testing import FakeServer
from tests.contract.client.backend import LEASE, Backend, identity_of


class Fake(FakeServer):
    """The fake server as a backend."""

    @property
    def pin(self) -> str | None:
        return None

    def set_minimum_allocation(self, seconds: float) -> None:
        self._fake.minimum_allocation = seconds


@pytest.fixture(params=["fake"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Everything that a real daemon must pass as well; it is plugged in as another parameter."""
    assert request.param == "fake"
    with Fake(lease=LEASE) as server:
        yield server


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    """For what only the fake can be told to do, such as losing an answer."""
    with FakeServer(lease=LEASE) as server:
        server.add_product("enc", seats=2)
        yield server


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
