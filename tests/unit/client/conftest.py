"""Daemons that are there, and such as are not."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import closing

import grpc.aio
import pytest


@pytest.fixture
async def alive() -> AsyncIterator[int]:
    """The port of a daemon that takes connections, though it may not answer for long."""
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield port
    await server.stop(None)


@pytest.fixture
def dead() -> Iterator[int]:
    """A port on which nobody listens, kept for this test."""
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        yield found.getsockname()[1]
