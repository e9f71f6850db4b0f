"""The HTTP port: health, readiness and metrics."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from poolkeeper_server.services import metrics
from poolkeeper_server.services.address import Address
from poolkeeper_server.transport.server import unavailable

_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


#: Connections at a time; of more than these the oldest that asks for nothing is closed, so that whoever has a question
#: is heard while others hold the port.
_MOST_CONNECTIONS = 64
#: Seconds for the headers of a request, from when the connection was opened or the last request was answered.
_PATIENCE = 5.0
_LARGEST_HEADERS = 16 * 1024


class _Connection(H11Protocol):
    """A connection that has so long to say what it asks for."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as the base class has it
        self._late: asyncio.TimerHandle | None = None
        self._began = self.loop.time()
        silent = [other for other in self.connections if isinstance(other, _Connection) and not other.asks]
        if len(self.connections) >= _MOST_CONNECTIONS and silent:
            min(silent, key=lambda other: other.began).give_up()
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._heed()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    @property
    def began(self) -> float:
        """When it was opened, on the loop's clock."""
        return self._began

    @property
    def asks(self) -> bool:
        """Whether it waits for an answer."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    def give_up(self) -> None:
        """Closes it, whatever is under way."""
        self.connections.discard(self)
        self.transport.abort()

    def _watch(self) -> None:
        if self.asks:
            self._heed()
        elif self._late is None:
            self._late = self.loop.call_later(_PATIENCE, self.give_up)

    def _heed(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


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
        http=_Connection,
        h11_max_incomplete_event_size=_LARGEST_HEADERS,
    )
    return HttpServer(Address(address.host, listening.getsockname()[1]), listening, _Uvicorn(config))


def _listen(address: Address) -> socket.socket:
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, target = found[0]
        return socket.create_server(target[:2], family=family, dualstack_ipv6=False)
    except OSError as error:
        raise unavailable(address, error, option="--http-listen") from error
