"""What nodes ask: enrolment, sessions, check-outs and everything that keeps or ends them."""

from __future__ import annotations

import asyncio
from asyncio import Future
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from poolkeeper_server.domain import commands as c
from poolkeeper_server.domain.attempts import BUCKETS
from poolkeeper_server.domain.moment import HOUR
from poolkeeper_server.domain.receipts import GrantReceipt, proven
from poolkeeper_server.domain.records import (
    Allocation,
    Key,
    Kind,
    Licence,
    Node,
    NodeState,
    Outcome,
    Session,
    SessionState,
    Use,
    Waiter,
)
from poolkeeper_server.domain.refusal import Reason, Refusal
from poolkeeper_server.domain.sessions import ended_refusal, gone_refusal
from poolkeeper_server.domain.uses import allocation_name
from poolkeeper_server.services import metrics
from poolkeeper_server.services.clock import Clock
from poolkeeper_server.services.committer import Committer
from poolkeeper_server.services.contract import (
    AllocationView,
    Enrolment,
    EnrolmentAttempt,
    OpenedSession,
    Page,
    PageRequest,
    Push,
    Served,
    ServerInfo,
    SessionAttempt,
)
from poolkeeper_server.services.events import Event, debugs, get_logger
from poolkeeper_server.services.feed import Feed
from poolkeeper_server.services.grants import Signer
from poolkeeper_server.services.large import SLICE, Large
from poolkeeper_server.services.limits import Limits
from poolkeeper_server.services.nodes import Credentials, Sightings
from poolkeeper_server.services.receipts import Receipts
from poolkeeper_server.services.sources import source_of
from poolkeeper_server.services.tokens import (
    InvalidToken,
    SessionIdentity,
    TokenMint,
    session_id,
)
from poolkeeper_server.storage.reader import Reader, of_node
from poolkeeper_server.storage.schema import TABLES

#: What a stranger is answered takes a whole number of these, so that its time tells nothing (CC-4).
STRANGER_SECONDS: Final = 0.1
#: A session token is good for so long beyond its promise, and is replaced when half of that is left.
TOKEN_LIFE: Final = 2 * HOUR
#: Waiters whose place is looked up at one time.
_PLACES: Final = 1000
#: Why a question is asked again a little later.
_PASSING: Final = (Reason.STORE_UNAVAILABLE, Reason.OVERLOADED, Reason.DRAINING)
#: What a session sends to keep or give back what it has.
_KEEPING: Final = (c.CheckIn, c.Heartbeat, c.Acknowledge, c.CloseSession, c.CancelWait)
_KEY_BYTES: Final = 32
_CODE_DIGITS: Final = 8

_log = get_logger()


@dataclass(slots=True)
class _Place:
    command: c.CheckOut
    waiter: Key
    place: int


class LeasingService:
    """Implements `contract.Leasing` and, for the handlers, `Gate.verify_session`, `is_current` and `seen`."""

    def __init__(
        self,
        *,
        committer: Committer,
        clock: Clock,
        reader: Reader,
        mint: TokenMint,
        signer: Signer,
        feed: Feed,
        credentials: Credentials,
        sightings: Sightings,
        limits: Limits,
        info: ServerInfo,
    ) -> None:
        self._committer = committer
        self._clock = clock
        self._reader = reader
        self._mint = mint
        self._signer = signer
        self._feed = feed
        self._credentials = credentials
        self._sightings = sightings
        self._limits = limits
        self._info = info
        self._receipts = Receipts(mint)
        self.large = Large()
        """Turns of large requests."""
        self._quiet = (0, 0)
        self._places: dict[Key, dict[str, _Place]] = {}
        self._granted = metrics.CHECK_OUTS.labels("granted", "")
        self._waiting = metrics.CHECK_OUTS.labels("waiting", "")

    # ---- the gate ----

    def verify_session(self, token: str) -> SessionIdentity:
        """Whose session token it is. Raises InvalidToken."""
        return self._mint.verify(token, self._clock.glance().lease)

    def is_current(self, identity: SessionIdentity) -> Refusal | None:
        """Why the node is not to be served any more; None while it is."""
        return self._credentials.refusal(identity)

    def seen(self, identity: SessionIdentity) -> None:
        """Takes note that the node has been heard of (EV-11)."""
        self._sightings.saw(identity.estate, identity.node, self._clock.glance().civil)

    # ---- contract.Leasing ----

    def session_of(self, token: str) -> SessionIdentity:
        """Whose session token it is, of a node that is still served."""
        try:
            identity = self.verify_session(token)
        except InvalidToken as error:
            raise error.refusal() from error
        refusal = self.is_current(identity)
        if refusal is not None:
            raise refusal
        return identity

    def server_info(self) -> ServerInfo:
        """What a client must know before it trusts this installation."""
        return self._info

    async def enrol(self, attempt: EnrolmentAttempt) -> Enrolment:
        """Redeems a code. Right or wrong, the answer comes after a whole number of `STRANGER_SECONDS`."""
        started = asyncio.get_running_loop().time()
        try:
            return await self._enrol(attempt)
        finally:
            await _till_the_next_turn(started)

    async def _enrol(self, attempt: EnrolmentAttempt) -> Enrolment:
        estate_id, pool_id = attempt.estate_id, attempt.pool_id
        digest = self._mint.code_digest(attempt.code)
        secret = self._mint.rolling_secret(enrolment_subject(digest, attempt.public_key))
        answer = await self._committer.submit(
            c.Enrol(
                source=source_of(attempt.source),
                estate_id=estate_id,
                pool_id=pool_id,
                digest=digest,
                public_key=attempt.public_key,
                valid=_is_valid(attempt),
                secret=sha256(secret).digest(),
                bucket=self._mint.bucket(f"{estate_id}/{pool_id}", BUCKETS),
            )
        )
        if isinstance(answer, Refusal):
            metrics.CODE_FAILURES.inc()
            _log.info(Event.ENROLMENT_FAILED, source=attempt.source, reason=answer.reason.value)
            raise answer
        if not isinstance(answer, c.Enrolled):
            raise TypeError(f"Enrol was answered with {answer!r}")
        await self._credentials.changed(estate_id, answer.node_id)
        self._sightings.saw(estate_id, answer.node_id, self.civil_now())
        _log.info(Event.NODE_ENROLLED, node=f"{estate_id}/{answer.node_id}", pool=answer.pool_id)
        return Enrolment(
            estate_id=estate_id,
            node_id=answer.node_id,
            pool_id=answer.pool_id,
            domain=answer.domain,
            rolling_secret=secret,
        )

    def challenge(self, estate_id: str, node_id: str) -> bytes:
        """A challenge to sign; given for nodes that do not exist too, so that nobody learns which do."""
        return self._mint.challenge(_node_name(estate_id, node_id), self._clock.glance().lease)

    async def open_session(self, attempt: SessionAttempt) -> OpenedSession:
        """Opens the session that belongs to the challenge."""
        name = _node_name(attempt.estate_id, attempt.node_id)
        try:
            self._mint.verify_challenge(attempt.challenge, name, self._clock.glance().lease)
        except InvalidToken as error:
            raise Refusal(Reason.UNAUTHENTICATED, str(error), hint="Ask for a new challenge.") from error
        node, public_key = await self._signer_of(attempt, name)
        held_by = (attempt.estate_id, attempt.node_id)
        self._limits.sessions.check(held_by)
        self._limits.sessions.add(held_by)
        session = session_id(attempt.challenge)
        following = self._mint.session_secret(
            session, node=name, epoch=self._clock.glance().epoch, generation=node.generation
        )
        epoch, generation = self._mint.secret_given(attempt.rolling_secret, node=name)
        answer = await self._committer.submit(
            c.OpenSession(
                estate_id=attempt.estate_id,
                node_id=attempt.node_id,
                session_id=session,
                domain=attempt.domain,
                public_key=public_key,
                secret=sha256(attempt.rolling_secret).digest(),
                next_secret=sha256(following).digest(),
                secret_epoch=epoch,
                secret_generation=generation,
                source=attempt.source,
                host=attempt.host,
            )
        )
        if isinstance(answer, Refusal):
            if answer.reason is Reason.NODE_COPIED and node.state is NodeState.ENROLLED:
                await self._credentials.changed(attempt.estate_id, attempt.node_id)
            raise answer
        if not isinstance(answer, c.SessionOpened):
            raise TypeError(f"OpenSession was answered with {answer!r}")
        identity = SessionIdentity(
            estate=attempt.estate_id,
            node=attempt.node_id,
            generation=answer.generation,
            session=session,
            pool=answer.session.pool_id,
            expires=answer.session.expires_lease + TOKEN_LIFE,
        )
        self.seen(identity)
        _log.debug(Event.SESSION_OPENED, node=name, session=session)
        return OpenedSession(
            identity=identity,
            token=self._mint.mint(identity),
            lease_duration=answer.lease_duration,
            heartbeat_interval=answer.heartbeat_interval,
            rolling_secret=following,
        )

    async def _signer_of(self, attempt: SessionAttempt, name: str) -> tuple[Node, bytes]:
        """The node, and the key of it, present or previous, that has signed the challenge.

        Whoever has not signed with it is a stranger, and hears the same, as late, whether there is such a node or not.
        """
        started = asyncio.get_running_loop().time()
        node = await self._reader.get(Node, attempt.estate_id, attempt.node_id)
        signed = b"\0".join((b"poolkeeper-session-v1", name.encode(), attempt.domain.encode(), attempt.challenge))
        for key in () if node is None else (node.public_key, node.previous_key):
            if node is None or len(key) != _KEY_BYTES:
                continue
            try:
                Ed25519PublicKey.from_public_bytes(key).verify(attempt.signature, signed)
            except InvalidSignature:
                continue
            return node, key
        await _till_the_next_turn(started)
        raise Refusal(
            Reason.UNAUTHENTICATED,
            "The challenge was not signed by the key of this node.",
            hint="Was the node enrolled into another installation, or anew from another machine?",
        )

    def submit(self, command: c.Command, *, within: float | None = None) -> Future[c.Answer]:
        """The future answer of a command of the check-out protocol; a refusal is an answer."""
        now = asyncio.get_running_loop().time()
        if isinstance(command, c.CheckOut):
            node = (command.estate_id, command.caller)
            self._limits.calls.take(node, now)
            if command.wait:
                self._limits.waits.check(node)
        elif isinstance(command, _KEEPING):
            self._limits.renewals.take((command.estate_id, command.session_id), now)
        future = self._committer.submit(command, within=within)
        if isinstance(command, c.CheckOut):
            future.add_done_callback(lambda done: self._checked_out(command, done))
        return future

    def _checked_out(self, command: c.CheckOut, done: Future[c.Answer]) -> None:
        if done.cancelled() or done.exception() is not None:
            return
        answer = done.result()
        if isinstance(answer, c.Granted):
            self._granted.inc()
            if debugs():
                _log.debug(Event.CHECK_OUT_GRANTED, node=command.caller, product=command.product_id)
        elif isinstance(answer, c.Waiting):
            self._waiting.inc()
            self._limits.waits.add((command.estate_id, command.caller))
            waiter = (command.estate_id, answer.pool_id, command.product_id, answer.sequence)
            waiting = self._places.setdefault((command.estate_id, command.session_id), {})
            waiting[command.request_id] = _Place(command, waiter, answer.place)
        elif isinstance(answer, Refusal):
            metrics.CHECK_OUTS.labels("denied", answer.reason.value).inc()
            _log.info(
                Event.CHECK_OUT_DENIED,
                node=f"{command.estate_id}/{command.caller}",
                product=command.product_id,
                reason=answer.reason.value,
            )

    async def tell_places(self) -> None:
        """Tells waiters whose place has changed (CC-18)."""
        looked_up = 0
        table = TABLES[Waiter]
        for session in list(self._places):
            # Whoever is looked up goes to the end of the line.
            waiting = self._places[session] = self._places.pop(session)
            for request_id, known in list(waiting.items()):
                looked_up += 1
                if looked_up > _PLACES:
                    return
                estate_id, pool_id, product_id, sequence = known.waiter
                in_queue = (
                    table.c.estate_id == estate_id,
                    table.c.pool_id == pool_id,
                    table.c.product_id == product_id,
                )
                waiter = await self._reader.get(Waiter, *known.waiter)
                if waiter is None:
                    await self.look_again(session, request_id)
                    continue
                place = await self._reader.count(Waiter, *in_queue, table.c.sequence <= sequence)
                if place and place != known.place:
                    known.place = place
                    news = c.Waiting(
                        place=place,
                        sequence=sequence,
                        pool_id=pool_id,
                        deadline_lease=waiter.deadline_lease,
                        estimate=await self._estimate(waiter, place),
                    )
                    self._feed.push(session, Served(request_id, news))
            if not waiting:
                self._places.pop(session, None)

    async def look_again(self, session: Key, request_id: str) -> None:
        """Tells a waiter what became of it that is in its queue no longer, whichever daemon has served it."""
        known = self._places.get(session, {}).pop(request_id, None)
        if known is None:
            return
        command = known.command
        answer: c.Answer = Refusal(
            Reason.WAIT_EXPIRED,
            f"No seat for {command.product_id} came free in time.",
            hint="Wait longer, or have an admin move seats into the pool.",
        )
        # Only what was granted leaves an outcome; asked again without one it would queue up anew.
        if await self._reader.get(Outcome, command.estate_id, request_id, command.caller) is not None:
            try:
                answer = await self._committer.submit(command)
            except Refusal as refusal:
                answer = refusal
        if isinstance(answer, Refusal) and answer.reason in _PASSING:
            self._places.setdefault(session, {})[request_id] = known
        elif isinstance(answer, c.Granted | Refusal):
            self._feed.push(session, Served(request_id, answer))

    async def _estimate(self, waiter: Waiter, place: int) -> int | None:
        """When the seat for that place is expected to leave quarantine; None when nothing tells."""
        lines = await self._reader.head(waiter.estate_id, waiter.pool_id)
        granting = set()
        for holding in [] if lines is None else lines[1]:
            licence = await self._reader.get(Licence, holding.estate_id, holding.licence_id)
            if licence is not None and waiter.product_id in licence.products:
                granting.add(licence.licence_id)
        table = TABLES[Allocation]
        resting, _ = await self._reader.page(
            Allocation,
            table.c.estate_id == waiter.estate_id,
            table.c.pool_id == waiter.pool_id,
            table.c.state == "QUARANTINED",
            table.c.quarantine_until > self._clock.glance().civil,
            order=("quarantine_until", "allocation_id"),
            size=place,
            token="",
        )
        ends = [one.quarantine_until for one in resting if any(licence in granting for licence, _ in one.lines)]
        return ends[place - 1] if place <= len(ends) else None

    def follow(self, identity: SessionIdentity, listener: Callable[[Push], None]) -> Callable[[], None]:
        """Has the listener called, in the loop, with what the session should be told."""
        return self._feed.follow((identity.estate, identity.session), listener)

    def begin_stream(self, identity: SessionIdentity) -> Callable[[], None]:
        """Counts a stream of the caller's node; call what it gives when the stream has ended.

        Raises Refusal when the node has too many.
        """
        node = (identity.estate, identity.node)
        self._limits.streams.begin(node)
        return lambda: self._limits.streams.end(node)

    async def count_held(self) -> None:
        """Counts what nodes have in the store that is limited."""
        sessions = TABLES[Session]
        await self._limits.sessions.count(
            lambda nodes: self._reader.held_by_nodes(Session, nodes, sessions.c.state != "ENDED")
        )
        await self._limits.waits.count(lambda nodes: self._reader.held_by_nodes(Waiter, nodes))

    def fresh_token(self, identity: SessionIdentity, promise_end: int) -> str:
        """A token to replace that of a session renewed until then; empty while the present one will do."""
        if identity.expires >= promise_end + TOKEN_LIFE // 2:
            return ""
        return self._mint.mint(
            SessionIdentity(
                estate=identity.estate,
                node=identity.node,
                generation=identity.generation,
                session=identity.session,
                pool=identity.pool,
                expires=promise_end + TOKEN_LIFE,
            )
        )

    def pseudonym(self, estate_id: str, node_id: str, consumer: str) -> str:
        """The name under which the ledger knows a consumer."""
        return self._mint.pseudonym(estate=estate_id, node=node_id, consumer=consumer)

    def civil_now(self) -> int:
        """Civil time in microseconds."""
        return self._clock.glance().civil

    def sign_grant(self, identity: SessionIdentity, granted: c.Granted) -> str:
        """The grant as a JWS: what was given to whom, until when, and where in the pool's ledger it stands."""
        allocation = granted.allocation
        now = self.civil_now()
        claims: dict[str, object] = {
            "iss": "poolkeeper",
            "sub": allocation_name(allocation),
            "iat": now // 1_000_000,
            "product": allocation.product_id,
            "quantity": granted.use.quantity,
            "node": _node_name(identity.estate, identity.node),
            "session": identity.session,
            "consumer": allocation.consumer,
            "kind": allocation.kind.value,
            "lines": [list(line) for line in allocation.lines],
            "fence": [granted.epoch, allocation.fence],
        }
        if allocation.kind is Kind.LEASED:
            claims["exp"] = (now + granted.remaining) // 1_000_000
        return self._signer.sign_grant(claims)

    def grant_receipt(self, granted: c.Granted, *, until: int | None) -> bytes:
        """What proves the grant, which is promised until that civil instant, after a restore."""
        return self._receipts.of_grant(granted, until=until)

    def session_receipt(self, renewed: c.Renewed, *, until: int) -> bytes:
        """What prolongs the proofs of all that the session has."""
        return self._receipts.of_session(renewed.session, epoch=renewed.epoch, until=until)

    async def is_quiet(self) -> bool:
        """Whether receipts could prove anything: in some pool, what is held may not be known since a restore."""
        moment = self._clock.glance()
        if self._quiet[0] != moment.epoch:
            # Within an epoch no quiet period begins, and none becomes longer than the longest.
            self._quiet = (moment.epoch, await self._reader.quiet_until())
        return moment.lease < self._quiet[1]

    async def proven(self, session_receipt: bytes, receipts: Sequence[bytes]) -> list[GrantReceipt]:
        """What receipts prove, each with the newest promise proven; those of other installations are left out."""
        grants = []
        for place, receipt in enumerate(receipts, 1):
            with suppress(InvalidToken):
                grants.append(self._receipts.read_grant(receipt))
            if place % SLICE == 0:
                await asyncio.sleep(0)
        session = None
        if session_receipt:
            with suppress(InvalidToken):
                session = self._receipts.read_session(session_receipt)
        return proven(session, grants)

    async def node_allocations(self, identity: SessionIdentity, page: PageRequest) -> Page[AllocationView]:
        """The allocations of the caller's node that take seats, and its own quarantined ones."""
        self._limits.calls.take((identity.estate, identity.node), asyncio.get_running_loop().time())
        session = await self._reader.get(Session, identity.estate, identity.session)
        if session is None or session.state is not SessionState.OPEN:
            # Another daemon may have revoked the node a moment ago, and its word may be still on the way (CC-9).
            raise gone_refusal() if session is None else ended_refusal(session)
        if not session.used:
            await self._committer.submit(c.UseSession(estate_id=identity.estate, session_id=identity.session))
        return await allocation_page(self._reader, page, estate_id=identity.estate, node_id=identity.node)


async def allocation_page(
    reader: Reader, page: PageRequest, *, estate_id: str, node_id: str = "", pool_id: str = "", state: str = ""
) -> Page[AllocationView]:
    """Allocations with their uses, of a node, a pool or the estate; without a state, all that take seats."""
    table = TABLES[Allocation]
    conditions = [table.c.estate_id == estate_id]
    conditions.append(table.c.state == state if state else table.c.state != "ENDED")
    if node_id:
        conditions.append(of_node(estate_id, node_id))
    if pool_id:
        conditions.append(table.c.pool_id == pool_id)
    found, token = await reader.page(Allocation, *conditions, size=page.size, token=page.token)
    return Page(await with_uses(reader, found), token)


async def with_uses(reader: Reader, found: list[Allocation]) -> tuple[AllocationView, ...]:
    """The allocations with the uses of the leased ones."""
    table = TABLES[Use]
    uses: dict[Key, list[Use]] = {}
    if found:
        ids = [one.allocation_id for one in found if one.kind is Kind.LEASED]
        for use in await reader.all(Use, table.c.estate_id == found[0].estate_id, table.c.allocation_id.in_(ids)):
            uses.setdefault((use.estate_id, use.allocation_id), []).append(use)
    return tuple(AllocationView(one, tuple(uses.get((one.estate_id, one.allocation_id), ()))) for one in found)


def enrolment_subject(digest: bytes, public_key: bytes) -> str:
    """What the rolling secret of an enrolment is derived from: the same code and key give the same one (CC-3)."""
    return f"enrolment/{digest.hex()}/{public_key.hex()}"


async def _till_the_next_turn(started: float) -> None:
    """Returns when a whole number of `STRANGER_SECONDS` have passed since then."""
    passed = asyncio.get_running_loop().time() - started
    await asyncio.sleep(STRANGER_SECONDS - passed % STRANGER_SECONDS)


def _is_valid(attempt: EnrolmentAttempt) -> bool:
    """Whether code and key have their form and the key's owner has signed."""
    if len(attempt.code) != _CODE_DIGITS or not (attempt.code.isascii() and attempt.code.isdigit()):
        return False
    if len(attempt.public_key) != _KEY_BYTES:
        return False
    signed = b"\0".join((b"poolkeeper-enrol-v1", attempt.pool.encode(), attempt.code.encode()))
    try:
        Ed25519PublicKey.from_public_bytes(attempt.public_key).verify(attempt.proof, signed)
    except (InvalidSignature, ValueError):
        return False
    return True


def _node_name(estate_id: str, node_id: str) -> str:
    return f"estates/{estate_id}/nodes/{node_id}"
