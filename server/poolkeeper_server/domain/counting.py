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
    def consumer(self) -> str:
        """On whose behalf."""

    @property
    def installation(self) -> str:
        """Which installation."""

    @property
    def user(self) -> str:
        """Which user."""

    @property
    def host(self) -> str:
        """Which host."""


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
        named = ("installation", subject.installation) if subject.installation else ("consumer", subject.consumer)
        return _key(named[0], scope, named[1]) if named[1] else _key("node", node_id)
    if counting is Counting.CONSUMER:
        if not subject.consumer:
            return CountingKey(key=_key("single", node_id).key, shared=False)
        return _key("consumer", scope, subject.consumer)
    user = subject.user or (registered.user if registered else "")
    host = subject.host or (registered.host if registered else "")
    counted = {Counting.USER: (user,), Counting.HOST: (host,), Counting.USER_HOST: (user, host)}[counting]
    # Whom nobody named is the node itself.
    return _key(counting.value.lower(), scope if all(counted) else node_id, *counted)


def _key(*parts: str) -> CountingKey:
    return CountingKey(key="\x1f".join(parts), shared=True)
