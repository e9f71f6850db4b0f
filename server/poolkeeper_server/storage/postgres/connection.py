"""Connections to the database, and what its errors mean."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

import asyncpg

from poolkeeper_server.storage.store import StoreUnreachable, StoreUnusable

#: Seconds that making a connection, and any one statement, may take.
CONNECT_WITHIN: Final = 5.0
ANSWER_WITHIN: Final = 10.0
_OLDEST: Final = 150_000

_COMMON: Final = {
    "application_name": "poolkeeper",
    "search_path": "public",
    "timezone": "UTC",
    "jit": "off",
}
WRITER: Final = _COMMON | {
    # What was answered must survive, whatever the server is set to (CC-14).
    "synchronous_commit": "on",
    # A daemon that stops in the middle of a transaction holds up the others for so long and no longer.
    "idle_in_transaction_session_timeout": "3s",
    "lock_timeout": "8s",
    "statement_timeout": "9s",
    "tcp_user_timeout": "5s",
    # Every statement leads by an index to few rows. Figures of a young database would say that nothing needs one,
    # and a plan that was made then would be kept.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
}
#: For copies and proofs, which take as long as they take.
CARE: Final = _COMMON | {"lock_timeout": "8s", "synchronous_commit": "on", "tcp_user_timeout": "30s"}
READER: Final = _COMMON | {"default_transaction_read_only": "on", "statement_timeout": "30s"}

#: Held shared by everybody who works on the store, for as long as the connection lasts; exclusively by whoever
#: replaces or moves it. A daemon whose connection was cut must get it again before it goes on.
_STORE_LOCK: Final = 7_665_651_235
HOLD: Final = f"SELECT pg_try_advisory_lock_shared({_STORE_LOCK})"
HOLD_ALONE: Final = f"SELECT pg_try_advisory_lock({_STORE_LOCK})"
#: How many connections hold it shared (a key of 64 bits stands in two columns).
HOLDERS: Final = (
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND mode = 'ShareLock' AND objsubid = 1 "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
    f"AND classid::bigint = {_STORE_LOCK >> 32} AND objid::bigint = {_STORE_LOCK & 0xFFFF_FFFF}"
)

#: Classes of SQLSTATE after which the same transaction may well succeed: connections, rollbacks forced by the server,
#: resources, locks, an operator's word, the server's own troubles (PostgreSQL, appendix A).
_PASSING: Final = ("08", "40", "53", "55", "57", "58", "XX")
#: The server is a standby for the time being.
_READ_ONLY: Final = "25006"


async def connect(
    url: str, settings: dict[str, str], *, answer_within: float | None = ANSWER_WITHIN
) -> asyncpg.Connection:
    """A connection with those settings, which prepares the statements that are used again and again once.

    The server keeps up to 0.4 MB for each of them.
    """
    return await asyncpg.connect(
        url,
        timeout=CONNECT_WITHIN,
        command_timeout=answer_within,
        statement_cache_size=256,
        max_cached_statement_lifetime=0,
        max_cacheable_statement_size=0,
        server_settings=settings,
    )


async def version_of(connection: asyncpg.Connection) -> str | None:
    """The version of a database's schema; None for one that has none of ours."""
    if await connection.fetchval("SELECT to_regclass('public.alembic_version')") is None:
        return None
    found = await connection.fetchval("SELECT version_num FROM alembic_version")
    return None if found is None else str(found)


def is_passing(error: BaseException) -> bool:
    """Whether the fault is the connection's or the server's, and not that of a statement or of its values."""
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        return state[:2] in _PASSING or state == _READ_ONLY
    if isinstance(error, asyncpg.InterfaceError):
        return not isinstance(error, ValueError)
    return isinstance(error, OSError | TimeoutError | asyncpg.InternalClientError)


def place(url: str) -> str:
    """Where the database is, without the password, for people to read."""
    parts = urlsplit(url)
    host = parts.hostname or "the local socket"
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.path.lstrip('/') or 'postgres'} at {host}{port}"


async def connect_first(
    url: str, settings: dict[str, str] = WRITER, *, answer_within: float | None = ANSWER_WITHIN
) -> asyncpg.Connection:
    """A connection for the start.

    Raises:
        StoreUnusable: when there is no database, it does not let us in, or it is too old; with what to do.
    """
    try:
        connection = await connect(url, settings, answer_within=answer_within)
    except (asyncpg.InvalidCatalogNameError, asyncpg.InvalidAuthorizationSpecificationError) as error:
        raise StoreUnusable(
            f"The database {place(url)} refuses: {error}.", hint="Make the database and the role, or correct the URL."
        ) from error
    except ValueError as error:
        # What asyncpg cannot read of the URL, or of what the environment adds to it.
        raise StoreUnusable(f"The address of the database cannot be used: {error}.", hint="Correct the URL.") from error
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise StoreUnreachable(
            f"The database {place(url)} cannot be reached: {error or type(error).__name__}.",
            hint="Start PostgreSQL, or correct the URL and what lets this host in (pg_hba.conf).",
        ) from error
    version = connection.get_server_version()
    if version.major * 10_000 < _OLDEST:
        await connection.close()
        raise StoreUnusable(
            f"The database {place(url)} runs on PostgreSQL {version.major}.", hint="Upgrade it to 15 or newer."
        )
    return connection
