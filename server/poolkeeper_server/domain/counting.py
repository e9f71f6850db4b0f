"""What counts as one: the counting key of an allocation.

Two check-outs with the same key share one allocation. A key includes the node, or the consumer that an admin
registered, so that nobody meets another on a free-text name.
"""

from __future__ import annotations

from hashlib import sha256
from typing import NamedTuple, Protocol

from poolkeeper_server.domain.records import Consumer, Counting, LicensedBy

_SEPARATOR = "\x1f"
#: Characters of a key, of four bytes at most. PostgreSQL keeps 2,704 bytes in a row of an index, in which estate,
#: product, pool and kind stand beside the key.
_LONGEST_KEY = 500


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


class CountingKey(NamedTuple):
    """`shared` keys have at most one live allocation; others only find their own quarantined seats again."""

    key: str
    shared: bool


def counting_keys(
    subject: Subject, node_id: str, counting: Counting, registered: Consumer | None
) -> dict[LicensedBy, CountingKey]:
    """The keys under which a check-out is counted, by what it may be licensed by.

    INSTALLED_INSTANCE counts the installation, else the consumer, else the node. CONCURRENT_USER counts what the pool
    says; a check-out that names no consumer counts by itself when consumers are counted.
    """
    own = f"consumer {registered.consumer}" if registered else f"node {node_id}"
    consumer = _key("consumer", "" if registered else own, subject.consumer) if subject.consumer else None
    if subject.installation:
        installed = _key("installation", own, subject.installation)
    else:
        installed = consumer or _key("node", own)
    if counting is not Counting.CONSUMER:
        concurrent = _counted(subject, own, counting, registered)
    else:
        concurrent = consumer or CountingKey(f"single{_SEPARATOR}{node_id}", False)  # noqa: FBT003 - keywords take twice as long
    return {LicensedBy.CONCURRENT_USER: concurrent, LicensedBy.INSTALLED_INSTANCE: installed}


def _counted(subject: Subject, own: str, counting: Counting, registered: Consumer | None) -> CountingKey:
    user = _named(registered.user if registered else "", subject.user, own)
    host = _named(registered.host if registered else "", subject.host, own)
    counted = {Counting.USER: user, Counting.HOST: host, Counting.USER_HOST: (*user, *host)}[counting]
    return _key(counting.value.lower(), *counted)


def _named(registered: str, given: str, own: str) -> tuple[str, str]:
    """A user or host as an admin registered it, known in the whole estate; else free text, known to its giver alone."""
    return ("", registered) if registered else (own, given)


def _key(*parts: str) -> CountingKey:
    key = _SEPARATOR.join(parts)
    if len(key) > _LONGEST_KEY:
        # No kind of key is called so, so that none that can be read is the same.
        key = f"digest{_SEPARATOR}{sha256(key.encode()).hexdigest()}"
    return CountingKey(key, True)  # noqa: FBT003 - as above
