"""The HTTP port: health, readiness and metrics."""

import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from poolkeeper_server.services import metrics
from poolkeeper_server.services.address import Address
from poolkeeper_server.transport.server import unavailable

_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class _Uvicorn(uvicorn.Server):
    """uvicorn without its signal handlers: the daemon has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@dataclass(frozen=True, slots=True)
class HttpServer:
    """An HTTP server that is bound; `address` has the port that it really got."""

    address: Address
    _socket: socket.socket
    _server: _Uvicorn

    async def serve(self) -> None:
        """Serves until stop is called or the task is cancelled."""
        with self._socket:
            await self._server.serve(sockets=[self._socket])

    def stop(self) -> None:
        """Makes serve return once the requests in progress are answered."""
        self._server.should_exit = True


def bind_http(address: Address, *, not_ready: Callable[[], str], routes: Sequence[BaseRoute] = ()) -> HttpServer:
    """A server that has its port and does not serve yet.

    `not_ready` says why the daemon should get no new work, in a few words; empty when it should. `routes` are
    served beside our own. Raises ConfigurationError when the port cannot be had.
    """

    async def healthz(request: Request) -> Response:
        del request
        return PlainTextResponse("ok\n")

    async def readyz(request: Request) -> Response:
        del request
        why = not_ready()
        return JSONResponse({"ready": not why, "reason": why}, status_code=503 if why else 200)

    async def exposition(request: Request) -> Response:
        del request
        return Response(metrics.exposition(), media_type=_METRICS_TYPE)

    own = [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", exposition)]
    application = Starlette(routes=[*own, *routes])
    listening = _listen(address)
    config = uvicorn.Config(
        application,
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=5,
    )
    return HttpServer(Address(address.host, listening.getsockname()[1]), listening, _Uvicorn(config))


def _listen(address: Address) -> socket.socket:
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, target = found[0]
        return socket.create_server(target[:2], family=family, dualstack_ipv6=False)
    except OSError as error:
        raise unavailable(address, error, option="--http-listen") from error
