"""News between the daemons of one database: what one has committed and the sessions of another should hear."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

import orjson

from poolkeeper_server.domain.commands import Notice
from poolkeeper_server.domain.records import Key
from poolkeeper_server.domain.refusal import Reason, Refusal
from poolkeeper_server.services.contract import Noticed
from poolkeeper_server.services.feed import Feed
from poolkeeper_server.services.ids import new_id
from poolkeeper_server.storage.store import Channel, Committed


class Relay:
    """Tells the other daemons, and passes on what they tell.

    A message may be lost. Then a waiter is found by the daemon's next look at those who wait, and a revocation by the
    session's next heartbeat: what is told here saves time and decides nothing.
    """

    def __init__(self, channel: Channel, feed: Feed) -> None:
        self._channel = channel
        self._feed = feed
        self._own = new_id()
        self._tasks: set[asyncio.Task[None]] = set()
        self._look_again: Callable[[Key, str], Awaitable[None]] | None = None
        self._refresh: Callable[[str, str], Awaitable[None]] | None = None

    async def start(
        self, *, look_again: Callable[[Key, str], Awaitable[None]], refresh: Callable[[str, str], Awaitable[None]]
    ) -> None:
        """Listens from now on.

        `look_again` finds out what became of a waiter (session and request id); `refresh` reads whether a node
        (estate, node) may still call.
        """
        self._look_again, self._refresh = look_again, refresh
        await self._channel.listen(self._hear)

    async def close(self) -> None:
        """Says what is still to be said, and listens no longer."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1)
        await self._channel.close()

    def publish(self, committed: Committed) -> None:
        """Tells what a transaction brought for sessions that nobody follows here."""
        news: list[dict[str, object]] = [
            {"session": list(session), "notice": _written(notice, committed.now.epoch)}
            for session, notices in committed.told
            if not self._feed.is_followed(session)
            for notice in notices
            if isinstance(notice, Notice)
        ]
        for waiter, _ in committed.served:
            session = (waiter.estate_id, waiter.session_id)
            if not self._feed.is_followed(session):
                news.append({"session": list(session), "waiter": waiter.request_id})
        if news:
            self._send(news)

    def node_changed(self, estate_id: str, node_id: str) -> None:
        """Tells that the credentials of a node have ended, or come back."""
        self._send([{"node": [estate_id, node_id]}])

    def _send(self, news: Iterable[dict[str, object]]) -> None:
        told = [orjson.dumps(one | {"from": self._own}).decode() for one in news]
        self._start(self._channel.send(told))

    def _start(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _hear(self, payload: str) -> None:
        told = orjson.loads(payload)
        if told["from"] == self._own or self._look_again is None or self._refresh is None:
            return
        if "node" in told:
            self._start(self._refresh(*told["node"]))
            return
        session = tuple(told["session"])
        if not self._feed.is_followed(session):
            return
        if "waiter" in told:
            self._start(self._look_again(session, told["waiter"]))
        else:
            self._feed.push(session, _read(told["notice"]))


def _written(notice: Notice, epoch: int) -> dict[str, object]:
    refusal = notice.refusal
    return {
        "allocation": notice.allocation_id,
        "pool": notice.pool_id,
        "fence": notice.fence,
        "epoch": epoch,
        "reason": refusal.reason.value,
        "message": refusal.message,
        "hint": refusal.hint,
        "at": refusal.at,
    }


def _read(told: dict[str, object]) -> Noticed:
    at = told["at"]
    refusal = Refusal(
        Reason(str(told["reason"])),
        str(told["message"]),
        hint=str(told["hint"]),
        at=int(at) if isinstance(at, int) else None,
    )
    notice = Notice(
        allocation_id=str(told["allocation"]),
        pool_id=str(told["pool"]),
        refusal=refusal,
        fence=int(str(told["fence"])),
    )
    return Noticed(notice, int(str(told["epoch"])))
