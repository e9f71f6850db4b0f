"""What counts as one: the counting key of an allocation.

Two check-outs with the same key share one allocation. A key includes the node unless an admin registered the
consumer, so that two nodes cannot meet on a free-text name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from poolkeeper_server.domain.records import Consumer, Counting, LicensedBy


class Subject(Protocol):
    """Who asks, on whose behalf."""

    @property
    def consumer(self) -> str: ...
    @property
    def installation(self) -> str: ...
    @property
    def user(self) -> str: ...
    @property
    def host(self) -> str: ...


@dataclass(frozen=True, slots=True)
class CountingKey:
    """`shared` keys have at most one live allocation; others only find their own quarantined seats again."""

    key: str
    shared: bool


def counting_key(
    subject: Subject, node_id: str, licensed_by: LicensedBy, counting: Counting, registered: Consumer | None
) -> CountingKey:
    """The key under which a check-out is counted.

    INSTALLED_INSTANCE counts the installation, else the consumer, else the node. CONCURRENT_USER counts what the pool
    says; a check-out that names no consumer counts by itself when consumers are counted.
    """
    scope = "" if registered else node_id
    if licensed_by is LicensedBy.INSTALLED_INSTANCE:
        if subject.installation:
            return _key("installation", scope, subject.installation)
        return _key("consumer", scope, subject.consumer) if subject.consumer else _key("node", node_id)
    if counting is Counting.CONSUMER:
        if not subject.consumer:
            return CountingKey(key=_key("single", node_id).key, shared=False)
        return _key("consumer", scope, subject.consumer)
    user = subject.user or (registered.user if registered else "")
    host = subject.host or (registered.host if registered else "")
    if counting is Counting.USER:
        return _key("user", scope if user else node_id, user)
    if counting is Counting.HOST:
        return _key("host", scope if host else node_id, host)
    return _key("user-host", scope if user and host else node_id, user, host)


def _key(*parts: str) -> CountingKey:
    return CountingKey(key="\x1f".join(parts), shared=True)
