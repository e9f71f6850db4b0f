"""A session's line to a daemon: dials, notices what is dead or about to stop, and goes on at another address."""

# ruff: noqa: ANN401 - requests and answers are of many generated types.

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from poolkeeper._clock import Clock
from poolkeeper._connector import Connector
from poolkeeper._core.patience import QUICKEST
from poolkeeper._link import Link, OnWaiting, StreamLink, waits
from poolkeeper.errors import Draining, Overloaded, PoolkeeperError, StoreUnavailable, Unreachable
from poolkeeper.v1 import licensing_pb2 as pb


class Line:
    """One link at a time for what is asked; links to daemons that stop are kept for their last answers."""

    def __init__(
        self,
        connector: Connector,
        *,
        token: Callable[[], str],
        clock: Clock,
        on_push: Callable[[pb.ConnectResponse], None],
        on_change: Callable[[], None],
    ) -> None:
        """Nothing is dialled yet. `on_change` hears that a link ended or was left, and pushes with it."""
        self._connector = connector
        self._token = token
        self._clock = clock
        self._on_push = on_push
        self._on_change = on_change
        self._link: Link | None = None
        self._retired: list[Link] = []
        self._dialling = asyncio.Lock()
        self._saying = asyncio.Lock()
        self._closed = False

    async def ask(
        self,
        request: Any,
        *,
        limit: float,
        on_waiting: OnWaiting | None = None,
        on_sent: Callable[[], None] | None = None,
    ) -> tuple[float, Any]:
        """When a request was sent, and its answer.

        Raises Unreachable after `limit` seconds without one, with those for a connection, and before that when its
        daemon is lost.
        """
        now = asyncio.get_running_loop().time
        began = now()
        link = await self._connected()
        limit = max(QUICKEST, limit - (now() - began))
        connector, patience = self._connector, self._connector.patience
        if isinstance(link, StreamLink) and not connector.streams_get_through and not waits(request):
            # What stands between may swallow all of it.
            limit = min(limit, patience.first)
        sent_at = self._clock.now()
        if on_sent is not None:
            on_sent()
        try:
            answer = await link.call(request, limit=limit, on_waiting=on_waiting)
        except PoolkeeperError as error:
            if error.reason:
                patience.heard()
            if isinstance(error, Draining):
                self._retire(link)
            elif isinstance(error, Unreachable) and not isinstance(error, Overloaded | StoreUnavailable):
                if not link.ended:
                    patience.unheard()
                await self._drop(link)
            raise
        patience.heard()
        connector.streams_get_through |= isinstance(link, StreamLink)
        return sent_at, answer

    async def say(self, request: Any, *, limit: float) -> None:
        """Sends a request by itself, also after the end: a node that may not go on gets no stream."""
        async with self._saying:
            link = await self._connector.single(token=self._token)
            try:
                await link.call(request, limit=limit)
            finally:
                await link.close()

    async def close(self) -> None:
        """Lets go of all connections; nothing more can be asked."""
        self._closed = True
        links = [*self._retired, *([self._link] if self._link is not None else [])]
        self._link, self._retired = None, []
        try:
            for link in links:
                await link.close()
        finally:
            await self._connector.let_go()

    async def _connected(self) -> Link:
        async with self._dialling:
            if self._link is not None and not self._link.ended:
                return self._link
            if self._link is not None:
                await self._drop(self._link)
            for link in [link for link in self._retired if link.ended]:
                self._retired.remove(link)
                await link.close()
            self._require_open()
            link = await self._connector.link(token=self._token, on_push=self._pushed, on_end=self._on_change)
            try:
                self._require_open()
            except Unreachable:
                await link.close()
                raise
            self._link = link
            return link

    def _require_open(self) -> None:
        if self._closed:
            raise Unreachable("The client is closed.")

    async def _drop(self, link: Link) -> None:
        if self._link is link:
            self._link = None
            if isinstance(link, StreamLink):
                self._connector.stream_ended(usable=not link.unusable)
            self._connector.go_elsewhere()
        await link.close()

    def _retire(self, link: Link) -> None:
        # Answers are still to come over it; what is new goes to another daemon, or to the next one at this address. A
        # stream that was ended keeps its daemon from stopping no longer.
        if self._link is link and (self._connector.has_alternatives or isinstance(link, StreamLink)):
            self._connector.go_elsewhere()
            self._retired.append(link)
            self._link = None
            link.retire()
            self._on_change()

    def _pushed(self, link: Link, response: pb.ConnectResponse) -> None:
        if response.WhichOneof("response") == "draining":
            self._retire(link)
        else:
            self._on_push(response)
