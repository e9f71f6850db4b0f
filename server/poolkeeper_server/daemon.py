"""The daemon: everything put together, started and stopped in order."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import signal
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from poolkeeper_server.config import Settings
from poolkeeper_server.domain.commands import PoolSettings, RaiseAlert
from poolkeeper_server.domain.records import Alert, AlertKind, Token
from poolkeeper_server.domain.refusal import Refusal
from poolkeeper_server.services import metrics
from poolkeeper_server.services.administration import AdministrationService
from poolkeeper_server.services.certificates import Authority, ServerCertificate, given_certificate, own_certificate
from poolkeeper_server.services.clock import Clock, HostClock, HostTime, TimeSource, first_mark
from poolkeeper_server.services.committer import Committer
from poolkeeper_server.services.configuration import ConfigurationError, NotYet, without_driver
from poolkeeper_server.services.contract import ServerInfo
from poolkeeper_server.services.directory import DataDirectory
from poolkeeper_server.services.events import Event, configure_logging, get_logger
from poolkeeper_server.services.feed import Feed
from poolkeeper_server.services.grants import Signer
from poolkeeper_server.services.housekeeping import Housekeeping
from poolkeeper_server.services.ids import new_id
from poolkeeper_server.services.leasing import LeasingService
from poolkeeper_server.services.limits import Limits
from poolkeeper_server.services.nodes import Credentials, Sightings
from poolkeeper_server.services.private_file import read_private, write_whole
from poolkeeper_server.services.process import most_connections, raise_open_files, share_arenas
from poolkeeper_server.services.relay import Relay
from poolkeeper_server.services.secrets import Secrets, open_secrets
from poolkeeper_server.services.shared_clock import SharedClock
from poolkeeper_server.services.sources import Fronts
from poolkeeper_server.services.tokens import (
    AdminIdentity,
    SessionIdentity,
    TokenMint,
    admin_digest,
    is_admin_secret,
    make_admin_secret,
)
from poolkeeper_server.services.writability import Writability
from poolkeeper_server.storage.embedded import EmbeddedDatabase
from poolkeeper_server.storage.reader import Reader
from poolkeeper_server.storage.store import (
    MOVED,
    Committed,
    Database,
    Mark,
    Store,
    StoreUnavailable,
    StoreUnreachable,
    StoreUnusable,
)
from poolkeeper_server.transport.administration import admin_bindings
from poolkeeper_server.transport.http import HttpServer, bind_http
from poolkeeper_server.transport.licensing import SERVICE as LICENSING
from poolkeeper_server.transport.licensing import licensing_binding
from poolkeeper_server.transport.server import GrpcServer, bind_server

if TYPE_CHECKING:
    from poolkeeper_server.storage.postgres.database import PostgresDatabase

_DATABASE = "poolkeeper.sqlite"
_TOKEN = "operator.token"  # noqa: S105 - the name of a file
_ENDPOINT = "endpoint.json"
_AUTHORITY = "ca.pem"
#: Seconds between rounds of the periodic work.
_TICK, _TELL, _CARE = 1.0, 5.0, 60.0
#: Seconds between looks whether anything can be committed.
_LOOK = 0.5
_ANOTHER_START = "Look at the disk or the database; another start may succeed."
#: Seconds in which answers that were given go out, before the connections of a daemon that stops are closed.
_LAST_BYTES = 0.2

_log = get_logger()


@dataclass(frozen=True, slots=True)
class _Gate:
    """Answers the handlers' questions about callers with the services that know."""

    leasing: LeasingService
    administration: AdministrationService

    def verify_session(self, token: str) -> SessionIdentity:
        return self.leasing.verify_session(token)

    def is_current(self, identity: SessionIdentity) -> Refusal | None:
        return self.leasing.is_current(identity)

    def seen(self, identity: SessionIdentity) -> None:
        self.leasing.seen(identity)

    async def find_admin(self, token: str) -> AdminIdentity | None:
        return await self.administration.find_admin(token)


@dataclass(slots=True)
class Readiness:
    """Why the daemon should get no new work; empty when it should."""

    reason: str = "starting"


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    """A running daemon; `operator_token` and `pin` are what its first admin needs.

    `front_certificate` is its certificate with the private key in PEM, empty without TLS.
    """

    grpc: GrpcServer
    http: HttpServer
    housekeeping: Housekeeping
    committer: Committer
    clock: Clock
    feed: Feed
    leasing: LeasingService
    credentials: Credentials
    relay: Relay | None
    readiness: Readiness
    writability: Writability
    operator_token: str
    pin: str
    authority: str
    front_certificate: str = field(repr=False)


def run(settings: Settings) -> None:
    """Runs the daemon until SIGTERM, SIGINT or SIGHUP, unless that is ignored as under nohup.

    Raises:
        ConfigurationError: when it cannot start with these settings on this machine.
    """
    configure_logging(settings.log_level)
    share_arenas()
    raise_open_files()
    try:
        import uvloop  # noqa: PLC0415 - Linux and macOS only, and a daemon without it is only slower
    except ImportError:
        factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    else:
        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        try:
            runner.run(_run(settings))
        except BaseExceptionGroup as group:
            # What stops a start among the tasks that were begun already comes as one of a group.
            stopped, others = group.split(ConfigurationError)
            if stopped is None or others is not None:
                raise
            raise _first(stopped) from group


def _first(group: BaseExceptionGroup[ConfigurationError]) -> ConfigurationError:
    found = group.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found


async def _run(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, stop.set)
    async with serving(settings) as daemon:
        _announce(settings, daemon)
        await stop.wait()


@asynccontextmanager
async def serving(
    settings: Settings, *, source: TimeSource | None = None, periodic: bool = True
) -> AsyncIterator[Daemon]:
    """A daemon that serves inside the context, and drains and stops when it is left (CC-28).

    `source` is where time comes from, the host by default. Without `periodic` nothing happens by itself: whoever
    drives the time calls the rounds of `Daemon.housekeeping`.

    Raises:
        ConfigurationError: when it cannot start.
    """
    source = source or HostTime()
    frozen: asyncio.Queue[str] = asyncio.Queue()
    async with AsyncExitStack() as stack:
        data = stack.enter_context(DataDirectory(settings.data)).path
        daemon = await _assemble(settings, data, source, frozen, stack)
        async with asyncio.TaskGroup() as tasks:
            committing = tasks.create_task(daemon.committer.run(), name="committer")
            web = tasks.create_task(daemon.http.serve(), name="http")
            loops = [
                tasks.create_task(_raise_alerts(frozen, daemon.committer), name="alerts"),
                tasks.create_task(_watch_store(daemon), name="writability"),
            ]
            if periodic:
                loops += [
                    tasks.create_task(_every(seconds, round_), name=round_.__name__)
                    for seconds, round_ in (
                        (_TICK, daemon.housekeeping.tick),
                        (_TELL, daemon.housekeeping.tell),
                        (_CARE, daemon.housekeeping.care),
                    )
                ]
            await _begin_serving(daemon)
            await daemon.grpc.start()
            if settings.front_certificate is not None:
                write_whole(settings.front_certificate, daemon.front_certificate)
            _write_endpoint(data, daemon)
            daemon.readiness.reason = ""
            try:
                yield daemon
            finally:
                daemon.readiness.reason = "draining"
                metrics.DRAINING.set(1)
                _log.info(Event.DAEMON_DRAINING)
                await daemon.grpc.drain()
                # At one instant: whose renewal came too late loses nothing by the time that passes from here on.
                daemon.committer.drain()
                daemon.clock.stop()
                daemon.feed.drain()
                await daemon.grpc.done(within=settings.drain_timeout / 1_000_000)
                await daemon.grpc.stop(_LAST_BYTES)
                (data / _ENDPOINT).unlink(missing_ok=True)
                for task in loops:
                    task.cancel()
                try:
                    await daemon.housekeeping.last()
                except StoreUnavailable as error:
                    # When nodes were seen is all that is lost.
                    _log.warning(Event.COMMIT_FAILED, error=str(error), batch=0)
                daemon.committer.close()
                await committing
                daemon.http.stop()
                await web
                metrics.DRAINING.set(0)
                _log.info(Event.DAEMON_STOPPED)


async def _assemble(
    settings: Settings, data: Path, source: TimeSource, frozen: asyncio.Queue[str], stack: AsyncExitStack
) -> Daemon:
    """Everything that the daemon consists of, bound to its ports, not serving yet."""
    loop = asyncio.get_running_loop()
    parts = await _open(settings, data, source, stack, lambda text: loop.call_soon_threadsafe(frozen.put_nowait, text))
    held, store, reader, clock, relay = parts.secrets, parts.store, parts.reader, parts.clock, parts.relay
    feed, sightings = parts.feed, Sightings()

    def on_commit(committed: Committed) -> None:
        feed.publish(committed)
        if relay is not None:
            relay.publish(committed)

    writability = Writability()
    committer = Committer(store, bound=settings.queue_bound, on_commit=on_commit, writability=writability)
    certificate = _certificate(settings, held.authority)
    mint, signer = TokenMint(held), Signer(held)
    credentials = Credentials(reader) if relay is None else Credentials(reader, relay.node_changed)
    try:
        await credentials.load()
    except Refusal as refusal:
        raise NotYet(refusal.message, hint=_ANOTHER_START) from refusal
    pin = "" if certificate is None else certificate.pin
    authority = "" if certificate is None else certificate.authority
    leasing = LeasingService(
        committer=committer,
        clock=clock,
        reader=reader,
        mint=mint,
        signer=signer,
        feed=feed,
        credentials=credentials,
        sightings=sightings,
        limits=Limits(
            calls_per_second=settings.calls_per_second,
            sessions=settings.sessions_per_node,
            waits=settings.waits_per_node,
        ),
        info=ServerInfo(
            version=version("poolkeeper"),
            authority=authority,
            signing_keys=signer.published(),
            retention=settings.outcome_retention,
        ),
    )
    administration = AdministrationService(
        committer=committer,
        clock=clock,
        reader=reader,
        mint=mint,
        signer=signer,
        credentials=credentials,
        sightings=sightings,
        defaults=PoolSettings(
            minimum_allocation=settings.minimum_allocation,
            lease_duration=settings.lease_duration,
            heartbeat_interval=settings.heartbeat_interval,
            margin=settings.margin,
        ),
        code_lifetime=settings.code_lifetime,
        pin=pin,
    )
    readiness = Readiness()
    return Daemon(
        grpc=bind_server(
            settings.listen,
            certificate=certificate,
            bindings=[licensing_binding(leasing), *admin_bindings(administration)],
            gate=_Gate(leasing, administration),
            connections=settings.connections or most_connections(),
            calls_per_second=settings.calls_per_second,
            fronts=Fronts(settings.trusted_fronts),
        ),
        http=bind_http(settings.http_listen, not_ready=lambda: readiness.reason or _unwritable(writability.reason)),
        housekeeping=Housekeeping(
            committer=committer,
            store=store,
            reader=reader,
            clock=clock,
            signer=signer,
            sightings=sightings,
            leasing=leasing,
            retention=settings.outcome_retention,
        ),
        committer=committer,
        clock=clock,
        feed=feed,
        leasing=leasing,
        credentials=credentials,
        relay=relay,
        readiness=readiness,
        writability=writability,
        operator_token=parts.operator_token,
        pin=pin,
        authority=authority,
        front_certificate="" if certificate is None else (certificate.private_key + certificate.chain).decode(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    """The database at this release's schema with what works on it, and the secrets that belong to it."""

    secrets: Secrets
    store: Store
    reader: Reader
    clock: Clock
    feed: Feed
    relay: Relay | None
    operator_token: str


async def _open(
    settings: Settings, data: Path, source: TimeSource, stack: AsyncExitStack, on_freeze: Callable[[str], object]
) -> _Opened:
    feed = Feed()
    try:
        if settings.database:
            postgres = _postgres(settings.database)
            held, mark, token = await _begin(settings, data, postgres, source)
            shared = SharedClock(source, mark, on_freeze=on_freeze)
            store: Store = postgres.store(shared)
            clock: Clock = shared
            reader = postgres.reader()
            relay = Relay(postgres.channel(), feed)
        else:
            embedded = EmbeddedDatabase(data / _DATABASE)
            held, mark, token = await _begin(settings, data, embedded, source)
            own = HostClock(source, mark, on_freeze=on_freeze)
            store, clock, reader, relay = embedded.store(own), own, embedded.reader(), None
    except StoreUnreachable as error:
        raise NotYet(error.message, hint=error.hint) from error
    except StoreUnusable as error:
        raise ConfigurationError(error.message, hint=error.hint) from error
    stack.push_async_callback(store.close)
    stack.push_async_callback(reader.close)
    if relay is not None:
        stack.push_async_callback(relay.close)
    return _Opened(secrets=held, store=store, reader=reader, clock=clock, feed=feed, relay=relay, operator_token=token)


def _postgres(url: str) -> PostgresDatabase:
    try:
        from poolkeeper_server.storage.postgres.database import PostgresDatabase  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise without_driver(error) from error
    return PostgresDatabase(url)


async def _begin(settings: Settings, data: Path, database: Database, source: TimeSource) -> tuple[Secrets, Mark, str]:
    """The secrets that belong to the database, its newest mark, and the operator's token."""
    for warning in await database.warnings():
        _log.warning(Event.STORE_UNSAFE, message=warning)
    if await database.migrate():
        _log.info(Event.STORE_MIGRATED, path=database.name)
    stored = await database.read_mark()
    if stored is None:
        held = open_secrets(settings.secrets, stored_check=None)
        stored = await database.write_first_mark(first_mark(source, await database.clock()), held.check_value())
    mark, check = stored
    if check.startswith(MOVED):
        raise ConfigurationError(
            f"The store {database.name} was {check}; on it the same seats would be given a second time.",
            hint="Start the daemon there, with --database or --data. To have it here again, move it back.",
        )
    held = open_secrets(settings.secrets, stored_check=check)
    return held, mark, await _operator_token(settings, data, database, mark.civil)


async def _begin_serving(daemon: Daemon) -> None:
    """What comes before the port is opened, and needs the store."""
    try:
        await daemon.housekeeping.begin()
        if daemon.relay is not None:
            await daemon.relay.start(look_again=daemon.leasing.look_again, refresh=daemon.credentials.refresh)
    except Refusal as refusal:
        why = daemon.writability.last or refusal.message
        raise NotYet(f"The store cannot be written: {why}.", hint=_ANOTHER_START) from refusal
    except StoreUnavailable as error:
        raise NotYet(f"The database is lost again: {error}.", hint=_ANOTHER_START) from error


def _unwritable(why: str) -> str:
    """What is said of a daemon that cannot write, in a few words; nothing when it can."""
    return f"the store cannot be written: {why}" if why else ""


async def _watch_store(daemon: Daemon) -> None:
    """Says while nothing can be committed, and leaves an alert as soon as one can be kept."""
    told, since, alerts = "", "", deque[Alert]()
    while True:
        await asyncio.sleep(_LOOK)
        reason = daemon.writability.look(now=time.perf_counter())
        if bool(reason) is not bool(told):
            metrics.STORE_UNWRITABLE.set(bool(reason))
            await daemon.grpc.report(LICENSING.full_name, serving=not reason)
        if reason and not told:
            since = _instant(daemon.clock.glance().civil)
            _log.error(Event.STORE_UNWRITABLE, error=reason)
            message = f"From {since} on {daemon.grpc.address} could commit nothing: {reason}. Look at its store."
            alerts.append(Alert(alert_id=new_id(), kind=AlertKind.STORE_UNWRITABLE, at=0, subject="", message=message))
        elif told and not reason:
            _log.info(Event.STORE_WRITABLE)
        told = reason
        if alerts and (not reason or daemon.writability.recovers):
            answer = await daemon.committer.submit(RaiseAlert(alert=alerts[0]))
            if not isinstance(answer, Refusal):
                alerts.popleft()


def _instant(civil: int) -> str:
    return dt.datetime.fromtimestamp(civil // 1_000_000, tz=dt.UTC).isoformat().replace("+00:00", "Z")


async def _every(seconds: float, round_: Callable[[], Awaitable[None]]) -> None:
    """Does a round of periodic work, again and again; a failed one is logged, and the next one tries again."""
    while True:
        await asyncio.sleep(seconds)
        try:
            await round_()
        except Exception:  # noqa: BLE001 - the top of a task
            _log.exception(Event.REAPER_FAILED)


async def _raise_alerts(frozen: asyncio.Queue[str], committer: Committer) -> None:
    while True:
        message = await frozen.get()
        _log.warning(Event.CLOCK_FROZEN, message=message)
        alert = Alert(alert_id=new_id(), kind=AlertKind.CLOCK_FROZEN, at=0, subject="", message=message)
        # Answered or not, the daemon goes on: the log has it, and `clock show` says it.
        await committer.submit(RaiseAlert(alert=alert))


def _certificate(settings: Settings, authority: Authority) -> ServerCertificate | None:
    if settings.tls != "auto":
        return None
    if settings.certificate is not None and settings.private_key is not None:
        return given_certificate(settings.certificate, settings.private_key)
    hosts = (settings.listen.host, socket.gethostname(), socket.getfqdn())
    return own_certificate(authority, hosts=hosts)


async def _operator_token(settings: Settings, data: Path, database: Database, now: int) -> str:
    """The operator's token, kept in a file of the data directory that only its owner reads."""
    path = data / _TOKEN
    try:
        text = _read_token(path)
        digest = admin_digest(text)
    except FileNotFoundError:
        secret = make_admin_secret()
        text, digest = secret.text, secret.digest
        write_whole(path, text + "\n")
    await database.record_token(
        Token(
            # Each daemon of a database has a token, and a file, of its own.
            token_id=f"operator-{digest[:4].hex()}" if settings.database else "operator",
            digest=digest,
            title="Operator, made by the daemon",
            estate_id="",
            created_at=now,
            expires_at=None,
            revoked_at=None,
        )
    )
    return text


def _read_token(path: Path) -> str:
    """An operator's token from its file; anything else there, which could be guessed, must not become one.

    Raises FileNotFoundError when there is none, and ConfigurationError for one that others can reach.
    """
    text = read_private(path, "The operator's token").decode(errors="replace").strip()
    if not is_admin_secret(text):
        raise ConfigurationError(
            f"{path} does not hold an operator's token.", hint="Delete it, and the next start makes a new one."
        )
    return text


def _write_endpoint(data: Path, daemon: Daemon) -> None:
    """Where local commands find the daemon; written when it is ready, and whole."""
    authority = data / _AUTHORITY
    if daemon.authority:
        write_whole(authority, daemon.authority, mode=0o644)
    endpoint = {
        "grpc": str(daemon.grpc.address),
        "local": daemon.grpc.local,
        "http": str(daemon.http.address),
        "tls": bool(daemon.authority),
        "pin": daemon.pin,
        "ca": str(authority) if daemon.authority else "",
    }
    write_whole(data / _ENDPOINT, json.dumps(endpoint) + "\n", mode=0o644)


def _announce(settings: Settings, daemon: Daemon) -> None:
    structlog.get_logger().info(
        Event.DAEMON_READY,
        grpc=str(daemon.grpc.address),
        http=str(daemon.http.address),
        data=str(settings.data),
        pin=daemon.pin,
    )
