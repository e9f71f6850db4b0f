"""What sessions are told without asking: who listens, and what the commits say."""

from __future__ import annotations

from collections.abc import Callable

from poolkeeper_server.domain.commands import Granted, Notice, Waiting
from poolkeeper_server.domain.records import Key
from poolkeeper_server.domain.refusal import Refusal
from poolkeeper_server.services.contract import Drained, Noticed, Push, Served
from poolkeeper_server.storage.store import Committed

Listener = Callable[[Push], None]


class Feed:
    """Listeners by session. They are called in the loop and must not block."""

    def __init__(self) -> None:
        self._listeners: dict[Key, dict[Listener, None]] = {}

    def follow(self, session: Key, listener: Listener) -> Callable[[], None]:
        """Has the listener called with what the session should be told, until what is given back is called."""
        self._listeners.setdefault(session, {})[listener] = None

        def end() -> None:
            group = self._listeners.get(session, {})
            group.pop(listener, None)
            if not group:
                self._listeners.pop(session, None)

        return end

    def is_followed(self, session: Key) -> bool:
        """Whether anybody here listens for the session."""
        return session in self._listeners

    def push(self, session: Key, news: Push) -> None:
        """Tells whoever listens for the session."""
        for listener in list(self._listeners.get(session, ())):
            listener(news)

    def publish(self, committed: Committed) -> None:
        """Tells what a transaction brought."""
        for session, notices in committed.told:
            for notice in notices:
                if isinstance(notice, Notice):
                    self.push(session, Noticed(notice, committed.now.epoch))
        for waiter, answer in committed.served:
            if isinstance(answer, Granted | Waiting | Refusal):
                self.push((waiter.estate_id, waiter.session_id), Served(waiter.request_id, answer))

    def drain(self) -> None:
        """Tells everybody that the daemon stops."""
        for session in list(self._listeners):
            self.push(session, Drained())
