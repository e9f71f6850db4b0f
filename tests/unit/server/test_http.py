import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from poolkeeper_server.services.address import Address
from poolkeeper_server.services.configuration import ConfigurationError
from poolkeeper_server.transport import http
from poolkeeper_server.transport.http import HttpServer, bind_http


class Readiness:
    reason = ""

    def __call__(self) -> str:
        return self.reason


@pytest.fixture
def readiness() -> Readiness:
    return Readiness()


@pytest.fixture
async def server(readiness: Readiness) -> AsyncIterator[HttpServer]:
    bound = bind_http(Address("127.0.0.1", 0), not_ready=readiness)
    serving = asyncio.create_task(bound.serve())
    yield bound
    bound.stop()
    await serving


async def get(server: HttpServer, path: str) -> tuple[int, str]:
    reader, writer = await asyncio.open_connection(server.address.host, server.address.port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    head, _, content = (await reader.read()).decode().partition("\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return int(head.split()[1]), content


async def test_health_readiness_and_metrics_are_served(server: HttpServer, readiness: Readiness) -> None:
    assert await get(server, "/healthz") == (200, "ok\n")
    assert (await get(server, "/readyz"))[0] == 200
    readiness.reason = "draining"
    status, content = await get(server, "/readyz")
    assert (status, json.loads(content)) == (503, {"ready": False, "reason": "draining"})
    status, content = await get(server, "/metrics")
    assert status == 200
    assert "# TYPE poolkeeper_rpc_seconds histogram" in content
    assert (await get(server, "/"))[0] == 404


async def silent(server: HttpServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection(server.address.host, server.address.port)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-")
    return reader, writer


async def test_who_never_ends_a_request_keeps_nobody_from_asking(server: HttpServer) -> None:
    held = [await silent(server) for _ in range(200)]
    assert await get(server, "/healthz") == (200, "ok\n")
    # The oldest had to go.
    assert await held[0][0].read() == b""
    assert not held[-1][0].at_eof()
    for _, writer in held:
        writer.close()


async def test_a_request_that_comes_slowly_is_not_waited_for(
    server: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "_PATIENCE", 0.05)
    reader, writer = await silent(server)
    assert await reader.read() == b""
    writer.close()
    # Nor is the second request of a connection that had an answer to its first.
    reader, writer = await asyncio.open_connection(server.address.host, server.address.port)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /healthz HTTP/1.1\r\nX-")
    assert (await reader.read()).startswith(b"HTTP/1.1 200 OK")
    writer.close()


async def test_headers_without_an_end_are_refused(server: HttpServer) -> None:
    reader, writer = await asyncio.open_connection(server.address.host, server.address.port)
    writer.write(b"GET /healthz HTTP/1.1\r\n" + b"X-A: b\r\n" * 4_000)
    assert (await reader.read()).startswith(b"HTTP/1.1 400")
    writer.close()


async def test_a_port_in_use_is_told(server: HttpServer, readiness: Readiness) -> None:
    with pytest.raises(ConfigurationError, match="in use by another program") as caught:
        bind_http(server.address, not_ready=readiness)
    assert "--http-listen" in caught.value.hint
