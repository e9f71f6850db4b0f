"""What admins ask: commands that change, and views of what there is."""

from __future__ import annotations

import secrets as randomness
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from hashlib import sha256

import orjson

from poolkeeper_server.domain import commands as c
from poolkeeper_server.domain.attempts import POOL, SOURCES, WARN_ABOVE, yearly_pending, yearly_probability
from poolkeeper_server.domain.epoch import is_quiet, quiet_end
from poolkeeper_server.domain.records import (
    Alert,
    Allocation,
    AllocationState,
    Binding,
    Checkpoint,
    Code,
    CodeState,
    Consumer,
    Entry,
    Estate,
    Holding,
    Key,
    Licence,
    Limit,
    Node,
    PendingEnrolment,
    Pool,
    Product,
    Queue,
    Session,
    SessionState,
    Token,
)
from poolkeeper_server.domain.refusal import Reason, Refusal, not_found
from poolkeeper_server.services.clock import Clock
from poolkeeper_server.services.committer import Committer
from poolkeeper_server.services.contract import (
    AllocationView,
    ClockView,
    CodeView,
    GuessRisk,
    HoldingView,
    IssuedCode,
    IssuedToken,
    LicenceView,
    NodeView,
    Page,
    PageRequest,
    PendingKey,
    PoolView,
    Statement,
    TokenWish,
)
from poolkeeper_server.services.events import Event, get_logger
from poolkeeper_server.services.grants import Signature, Signer
from poolkeeper_server.services.ids import new_id
from poolkeeper_server.services.leasing import allocation_page, enrolment_subject, with_uses
from poolkeeper_server.services.nodes import Credentials, Sightings
from poolkeeper_server.services.tokens import AdminIdentity, TokenMint, admin_digest, make_admin_secret
from poolkeeper_server.storage.reader import Reader
from poolkeeper_server.storage.schema import TABLES

#: Codes of an estate that are never issued; a guess that meets one gives the guesser away (CC-6).
HONEY_CODES = 100
#: Draws of a code; a second one is needed once in about a million.
_DRAWS = 8
_CODES = 10**8
_LEDGER_PAGE = 1000
#: Sessions of a node that are looked at, how many of them are shown, and how many from one source and host.
_SESSIONS_READ = 1000
_SESSIONS_SHOWN = 50
_SESSIONS_ALIKE = 3

_log = get_logger()


class AdministrationService:
    """Implements `contract.Administration` and, for the handlers, `Gate.find_admin`."""

    def __init__(
        self,
        *,
        committer: Committer,
        clock: Clock,
        reader: Reader,
        mint: TokenMint,
        signer: Signer,
        credentials: Credentials,
        sightings: Sightings,
        defaults: c.PoolSettings,
        code_lifetime: int,
        pin: str,
    ) -> None:
        self._committer = committer
        self._clock = clock
        self._reader = reader
        self._mint = mint
        self._signer = signer
        self._credentials = credentials
        self._sightings = sightings
        self._defaults = defaults
        self._code_lifetime = code_lifetime
        self._pin = pin

    async def find_admin(self, token: str) -> AdminIdentity | None:
        """Whose admin token it is; None for an unknown, expired or revoked one."""
        table = TABLES[Token]
        found = await self._reader.all(Token, table.c.digest == admin_digest(token), most=1)
        if not found or found[0].revoked_at is not None:
            return None
        expires = found[0].expires_at
        if expires is not None and self._now() >= expires:
            return None
        return AdminIdentity(token=found[0].token_id, estate=found[0].estate_id)

    # ---- changes ----

    async def apply(self, command: c.Request) -> c.Done:
        """Carries a command out; what only the daemon can add to it (digests, defaults, secrets) it adds."""
        match command:
            case c.CreateEstate():
                command = replace(
                    command, settings=self._with_defaults(command.settings), honey=self._digests(HONEY_CODES)[1]
                )
            case c.CreatePool():
                command = replace(command, settings=self._with_defaults(command.settings))
            case c.ApproveNode():
                command = replace(command, secrets=await self._enrolment_secrets(command))
            case _:
                pass
        answer = await self._answer(command)
        if not isinstance(answer, c.Done):
            raise TypeError(f"{type(command).__name__} was answered with {answer!r}")
        if isinstance(command, c.ApproveNode | c.RevokeNode):
            await self._credentials.changed(command.estate_id, command.node_id)
        return answer

    async def issue_code(self, command: c.IssueCode) -> IssuedCode:
        """Issues a code; its digits are in the answer and nowhere else."""
        digits, digests = self._digests(_DRAWS)
        command = replace(
            command,
            code_id=new_id(),
            digests=digests,
            lifetime=command.lifetime or self._code_lifetime,
        )
        answer = await self._answer(command)
        if not isinstance(answer, c.CodeIssued):
            raise TypeError(f"IssueCode was answered with {answer!r}")
        return IssuedCode(
            code=await self.code(command.estate_id, answer.code_id),
            digits=digits[answer.draw] if answer.draw >= 0 else "",
            pin=self._pin,
        )

    async def create_token(self, wish: TokenWish) -> IssuedToken:
        """Makes a token."""
        if wish.scope:
            await self.estate(wish.scope)
        secret = make_admin_secret()
        now = self._now()
        token = Token(
            token_id=new_id(),
            digest=secret.digest,
            title=wish.title,
            estate_id=wish.scope,
            created_at=now,
            expires_at=None if wish.lifetime is None else now + wish.lifetime,
            revoked_at=None,
        )
        answer = await self._answer(
            c.CreateToken(
                estate_id="",
                caller=wish.caller,
                request_id=wish.request_id,
                digest=wish.digest,
                token=token,
            )
        )
        if not isinstance(answer, c.Done):
            raise TypeError(f"CreateToken was answered with {answer!r}")
        return IssuedToken(await self.token(answer.subject), "" if answer.repeated else secret.text)

    async def _answer(self, command: c.Request) -> c.Answer:
        answer = await self._committer.submit(command)
        if isinstance(answer, Refusal):
            raise answer
        _log.info(Event.ADMIN_CHANGED, command=type(command).__name__, estate=command.estate_id)
        return answer

    def _with_defaults(self, settings: c.PoolSettings) -> c.PoolSettings:
        given = {
            name: value
            for name in ("minimum_allocation", "lease_duration", "heartbeat_interval", "margin")
            if (value := getattr(settings, name)) is not None
        }
        defaults = replace(self._defaults, **given)
        return replace(
            settings,
            minimum_allocation=defaults.minimum_allocation,
            lease_duration=defaults.lease_duration,
            heartbeat_interval=defaults.heartbeat_interval,
            margin=defaults.margin,
        )

    def _digests(self, count: int) -> tuple[tuple[str, ...], tuple[bytes, ...]]:
        """So many codes, each drawn uniformly from all of them (CC-1), and their digests."""
        digits = tuple(f"{randomness.randbelow(_CODES):08}" for _ in range(count))
        return digits, tuple(self._mint.code_digest(code) for code in digits)

    async def _enrolment_secrets(self, command: c.ApproveNode) -> tuple[tuple[str, bytes], ...]:
        """The hashes of the rolling secrets that the waiting machine is given when it asks again, by code."""
        found = []
        for key in await self._waiting(command.estate_id, command.node_id):
            code = await self._reader.get(Code, key.estate_id, key.code_id)
            if code is not None and key.fingerprint == command.fingerprint.lower().replace(":", ""):
                secret = self._mint.rolling_secret(enrolment_subject(code.digest, key.public_key))
                found.append((code.code_id, sha256(secret).digest()))
        return tuple(found)

    async def _waiting(self, estate_id: str, node_id: str) -> list[PendingEnrolment]:
        """The keys that wait for a name."""
        table = TABLES[PendingEnrolment]
        return await self._reader.all(
            PendingEnrolment, table.c.estate_id == estate_id, table.c.node_id == node_id, table.c.rejected.is_(False)
        )

    def _now(self) -> int:
        return self._clock.glance().civil

    # ---- views ----

    async def estate(self, estate_id: str) -> Estate:
        """One estate."""
        found = await self._reader.get(Estate, estate_id)
        if found is None:
            raise not_found(f"estate {estate_id}", hint="`poolkeeper estate list` shows what there is.")
        return found

    async def estates(self, page: PageRequest) -> Page[Estate]:
        """All estates, by id."""
        found, token = await self._reader.page(Estate, size=page.size, token=page.token)
        return Page(tuple(found), token)

    async def product(self, product_id: str) -> Product:
        """One product."""
        found = await self._reader.get(Product, product_id)
        if found is None:
            raise not_found(f"product {product_id}", hint="`poolkeeper product list` shows the catalogue.")
        return found

    async def products(self, page: PageRequest) -> Page[Product]:
        """The catalogue, by id."""
        found, token = await self._reader.page(Product, size=page.size, token=page.token)
        return Page(tuple(found), token)

    async def licence(self, estate_id: str, licence_id: str) -> LicenceView:
        """One licence."""
        await self.estate(estate_id)
        found = await self._reader.get(Licence, estate_id, licence_id)
        if found is None:
            raise not_found(f"licence {estate_id}/{licence_id}")
        return (await self._licence_views([found]))[0]

    async def licences(self, estate_id: str, page: PageRequest) -> Page[LicenceView]:
        """An estate's licences, by id."""
        await self.estate(estate_id)
        table = TABLES[Licence]
        found, token = await self._reader.page(
            Licence, table.c.estate_id == estate_id, size=page.size, token=page.token
        )
        return Page(await self._licence_views(found), token)

    async def _licence_views(self, found: list[Licence]) -> tuple[LicenceView, ...]:
        if not found:
            return ()
        table = TABLES[Holding]
        holdings = await self._reader.all(
            Holding,
            table.c.estate_id == found[0].estate_id,
            table.c.licence_id.in_([licence.licence_id for licence in found]),
        )
        due = await self._due_seats(found[0].estate_id, {holding.pool_id for holding in holdings}, self._now())
        present = [_without_due(holding, due) for holding in holdings]
        return tuple(
            LicenceView(licence, tuple(one for one in present if one.licence_id == licence.licence_id))
            for licence in found
        )

    async def _due_seats(self, estate_id: str, pools: Iterable[str], now: int) -> Counter[Key]:
        """Seats by pool and licence whose quarantine is over and not yet ended."""
        due: Counter[Key] = Counter()
        for allocation in await self._reader.due_quarantines(estate_id, pools, now):
            for licence_id, seats in allocation.lines:
                due[(allocation.pool_id, licence_id)] += seats
        return due

    async def pool(self, estate_id: str, pool_id: str) -> PoolView:
        """One pool."""
        await self.estate(estate_id)
        found = await self._reader.get(Pool, estate_id, pool_id)
        if found is None:
            raise not_found(
                f"pool {estate_id}/{pool_id}", hint=f"`poolkeeper pool list {estate_id}` shows what there is."
            )
        return (await self._pool_views([found]))[0]

    async def pools(self, estate_id: str, page: PageRequest) -> Page[PoolView]:
        """An estate's pools, by id."""
        await self.estate(estate_id)
        table = TABLES[Pool]
        found, token = await self._reader.page(Pool, table.c.estate_id == estate_id, size=page.size, token=page.token)
        return Page(await self._pool_views(found), token)

    async def _pool_views(self, found: list[Pool]) -> tuple[PoolView, ...]:
        if not found:
            return ()
        estate_id, moment = found[0].estate_id, self._clock.glance()
        now = moment.civil
        ids = [pool.pool_id for pool in found]
        holdings, queues, limits = TABLES[Holding], TABLES[Queue], TABLES[Limit]
        lines = await self._reader.all(Holding, holdings.c.estate_id == estate_id, holdings.c.pool_id.in_(ids))
        licences = {
            licence.licence_id: licence
            for licence in await self._reader.all(Licence, TABLES[Licence].c.estate_id == estate_id)
        }
        waiting = await self._reader.all(
            Queue, queues.c.estate_id == estate_id, queues.c.pool_id.in_(ids), queues.c.length > 0
        )
        frozen = {
            limit.subject: limit.blocked_until
            for limit in await self._reader.all(
                Limit,
                limits.c.scope == POOL,
                limits.c.subject.in_([f"{estate_id}/{pool_id}" for pool_id in ids]),
                limits.c.blocked_until > now,
            )
        }
        nodes = await self._reader.node_counts(estate_id, ids)
        due = await self._due_seats(estate_id, ids, now)
        return tuple(
            PoolView(
                pool=pool,
                holdings=tuple(
                    HoldingView(_without_due(line, due), licences[line.licence_id])
                    for line in lines
                    if line.pool_id == pool.pool_id and (line.count or line.active or line.quarantined)
                ),
                thaw_at=frozen.get(f"{estate_id}/{pool.pool_id}"),
                quiet_until=quiet_end(pool, moment) if is_quiet(pool, moment) else None,
                node_count=nodes.get(pool.pool_id, 0),
                waiting=sum(queue.length for queue in waiting if queue.pool_id == pool.pool_id),
            )
            for pool in found
        )

    async def code(self, estate_id: str, code_id: str) -> CodeView:
        """One code; a honey code is not found."""
        found = await self._reader.get(Code, estate_id, code_id)
        if found is None or found.state is CodeState.HONEY:
            raise not_found(f"code {code_id}")
        return (await self._code_views(estate_id, [found]))[0]

    async def _code_views(self, estate_id: str, found: list[Code]) -> tuple[CodeView, ...]:
        table, ids = TABLES[PendingEnrolment], [code.code_id for code in found]
        waiting = await self._reader.all(
            PendingEnrolment,
            table.c.estate_id == estate_id,
            table.c.code_id.in_(ids),
            table.c.rejected.is_(False),
        )
        contested = {key.code_id for key in waiting}
        views = []
        for code in found:
            state = code.state.value
            if code.state is CodeState.ISSUED and code.code_id in contested:
                state = "PENDING"
            elif code.state is CodeState.ISSUED and self._now() >= code.expires_at:
                state = "EXPIRED"
            views.append(CodeView(code=code, state=state))
        return tuple(views)

    async def codes(self, estate_id: str, pool_id: str, page: PageRequest) -> Page[CodeView]:
        """The codes of a pool, or of the estate where `pool_id` is empty; honey codes are left out."""
        await self._exists(estate_id, pool_id)
        table = TABLES[Code]
        conditions = [table.c.estate_id == estate_id, table.c.state != CodeState.HONEY.value]
        if pool_id:
            conditions.append(table.c.pool_id == pool_id)
        found, token = await self._reader.page(Code, *conditions, size=page.size, token=page.token)
        return Page(await self._code_views(estate_id, found), token)

    async def risk(self, estate_id: str) -> GuessRisk:
        """The risk of an estate's live codes (CC-7), or of the installation's where it is empty."""
        table = TABLES[Code]
        conditions = [table.c.state == CodeState.ISSUED.value, table.c.expires_at > self._now()]
        if estate_id:
            conditions.append(table.c.estate_id == estate_id)
        live = await self._reader.count(Code, *conditions)
        probability = yearly_probability(live)
        warning = ""
        if probability > WARN_ABOVE:
            warning = (
                f"{live} codes can be redeemed now. Strangers who try all year would guess one with a probability of "
                f"{probability:.1e}; revoke codes that nobody needs, or issue them with a shorter lifetime."
            )
        attempts, since = await self._reader.failed_attempts(estate_id)
        return GuessRisk(
            live_codes=live,
            yearly_probability=probability,
            warning=warning,
            sources=SOURCES,
            yearly_pending=yearly_pending(live, SOURCES),
            attempts=attempts,
            attempts_since=since,
        )

    async def node(self, estate_id: str, node_id: str) -> NodeView:
        """One node, or an enrolment that waits."""
        await self.estate(estate_id)
        table = TABLES[Node]
        found = await self._reader.all(Node, table.c.estate_id == estate_id, table.c.node_id == node_id)
        waiting = await self._waiting(estate_id, node_id)
        views = await self._node_views(estate_id, found)
        pending = tuple([await self._pending_key(key) for key in waiting])
        if waiting and not found:
            return _waiting_view(pending)
        if not views:
            raise not_found(
                f"node {estate_id}/{node_id}", hint=f"`poolkeeper node list {estate_id}` shows what there is."
            )
        return replace(views[0], pending=pending, sessions=await self._sessions(found[0]))

    async def _pending_key(self, key: PendingEnrolment) -> PendingKey:
        code = await self._reader.get(Code, key.estate_id, key.code_id)
        if code is None:
            return PendingKey(key=key, pool_id="", domain="")
        return PendingKey(key=key, pool_id=code.pool_id, domain=code.domain)

    async def _sessions(self, node: Node) -> tuple[Session, ...]:
        """The sessions of a node's present enrolment by which an admin tells two machines apart (CC-32).

        Those that are open, or were when it was stopped, and the newest few from each source and host.
        """
        newest = await self._reader.newest_sessions(node.estate_id, node.node_id, _SESSIONS_READ)
        from_where: Counter[tuple[str, str]] = Counter()
        chosen = []
        for session in newest:
            if session.opened_at < node.enrolled_at:
                break
            from_where[(session.source, session.host)] += 1
            alike = from_where[(session.source, session.host)]
            stopped = session.end_reason == Reason.NODE_COPIED
            if alike <= _SESSIONS_ALIKE or stopped or session.state is not SessionState.ENDED:
                chosen.append(session)
        return tuple(chosen[:_SESSIONS_SHOWN])

    async def nodes(self, estate_id: str, pool_id: str, page: PageRequest, *, pending: bool) -> Page[NodeView]:
        """The nodes of an estate, or those bound to a pool; or only those that wait for approval."""
        await self._exists(estate_id, pool_id)
        waiting_table, codes = TABLES[PendingEnrolment], TABLES[Code]
        conditions = [waiting_table.c.estate_id == estate_id, waiting_table.c.rejected.is_(False)]
        if pool_id:
            of_pool = codes.select().with_only_columns(codes.c.code_id)
            of_pool = of_pool.where(codes.c.estate_id == estate_id, codes.c.pool_id == pool_id)
            conditions.append(waiting_table.c.code_id.in_(of_pool))
        if pending:
            waiting, token = await self._reader.page(PendingEnrolment, *conditions, size=page.size, token=page.token)
            return Page(tuple([_waiting_view((await self._pending_key(key),)) for key in waiting]), token)
        table, bindings = TABLES[Node], TABLES[Binding]
        chosen = [table.c.estate_id == estate_id]
        if pool_id:
            bound = bindings.select().with_only_columns(bindings.c.node_id)
            bound = bound.where(bindings.c.estate_id == estate_id, bindings.c.pool_id == pool_id)
            chosen.append(table.c.node_id.in_(bound))
        found, token = await self._reader.page(Node, *chosen, size=page.size, token=page.token)
        return Page(await self._node_views(estate_id, found), token)

    async def _node_views(self, estate_id: str, found: list[Node]) -> tuple[NodeView, ...]:
        ids = [node.node_id for node in found]
        seats = await self._reader.node_seats(estate_id, ids)
        seen = await self._reader.sightings(estate_id, ids)
        table = TABLES[Binding]
        bindings = await self._reader.all(Binding, table.c.estate_id == estate_id, table.c.node_id.in_(ids))
        return tuple(
            NodeView(
                estate_id=estate_id,
                node_id=node.node_id,
                state=node.state.value,
                bindings=tuple(one for one in bindings if one.node_id == node.node_id),
                public_key=node.public_key,
                enrolled_at=node.enrolled_at,
                seen_at=self._sightings.newest(estate_id, node.node_id, seen.get(node.node_id)),
                seats=seats.get(node.node_id, 0),
            )
            for node in found
        )

    async def consumer(self, estate_id: str, consumer: str) -> Consumer:
        """One registered consumer."""
        found = await self._reader.get(Consumer, estate_id, consumer)
        if found is None:
            raise not_found(f"registered consumer {consumer} in estate {estate_id}")
        return found

    async def consumers(self, estate_id: str, page: PageRequest) -> Page[Consumer]:
        """An estate's registered consumers."""
        await self.estate(estate_id)
        table = TABLES[Consumer]
        found, token = await self._reader.page(
            Consumer, table.c.estate_id == estate_id, size=page.size, token=page.token
        )
        return Page(tuple(found), token)

    async def allocation(self, estate_id: str, allocation_id: str) -> AllocationView:
        """One allocation."""
        found = await self._reader.get(Allocation, estate_id, allocation_id)
        if found is None:
            raise not_found(f"allocation {allocation_id} in estate {estate_id}")
        return (await with_uses(self._reader, [self._presently(found)]))[0]

    def _presently(self, allocation: Allocation) -> Allocation:
        """An allocation whose quarantine is over has ended, also before that is written down (MI-19)."""
        until = allocation.quarantine_until
        if allocation.state is AllocationState.QUARANTINED and until is not None and self._now() >= until:
            return replace(allocation, state=AllocationState.ENDED)
        return allocation

    async def allocations(
        self, estate_id: str, pool_id: str, page: PageRequest, *, state: AllocationState | None
    ) -> Page[AllocationView]:
        """The allocations of a pool or an estate in a state; None is all that take seats."""
        await self._exists(estate_id, pool_id)
        found = await allocation_page(
            self._reader, page, estate_id=estate_id, pool_id=pool_id, state="" if state is None else state.value
        )
        present = [replace(view, allocation=self._presently(view.allocation)) for view in found.items]
        wanted = [
            view
            for view, before in zip(present, found.items, strict=True)
            if view.allocation.state is before.allocation.state
        ]
        return Page(tuple(wanted), found.next_token)

    async def node_installed(self, estate_id: str, node_id: str) -> tuple[AllocationView, ...]:
        """A node's installed allocations."""
        table = TABLES[Allocation]
        found = await self._reader.all(
            Allocation,
            table.c.estate_id == estate_id,
            table.c.node_id == node_id,
            table.c.state != "ENDED",
            table.c.kind == "INSTALLED",
        )
        return await with_uses(self._reader, found)

    async def entries(self, estate_id: str, pool_id: str, page: PageRequest, *, newest_first: bool) -> Page[Entry]:
        """A pool's ledger."""
        await self._exists(estate_id, pool_id)
        table = TABLES[Entry]
        found, token = await self._reader.page(
            Entry,
            table.c.estate_id == estate_id,
            table.c.pool_id == pool_id,
            size=page.size,
            token=page.token,
            descending=newest_first,
        )
        return Page(tuple(found), token)

    async def export(self, estate_id: str, pool_id: str) -> AsyncIterator[Entry | Statement]:
        """The whole ledger with its checkpoints, and last a head signed now."""
        head = await self._reader.head(estate_id, pool_id)
        if head is None:
            raise not_found(f"pool {estate_id}/{pool_id}")
        pool, holdings = head
        entries, checkpoints = TABLES[Entry], TABLES[Checkpoint]
        kept = await self._reader.all(
            Checkpoint, checkpoints.c.estate_id == estate_id, checkpoints.c.pool_id == pool_id
        )
        due = iter([one for one in kept if one.sequence <= pool.ledger_sequence])
        checkpoint = next(due, None)
        reached = 0
        while reached < pool.ledger_sequence:
            found = await self._reader.all(
                Entry,
                entries.c.estate_id == estate_id,
                entries.c.pool_id == pool_id,
                entries.c.sequence > reached,
                entries.c.sequence <= pool.ledger_sequence,
                most=_LEDGER_PAGE,
            )
            for entry in found:
                yield entry
                while checkpoint is not None and checkpoint.sequence == entry.sequence:
                    signature = Signature(checkpoint.key_id, checkpoint.signature)
                    yield Statement(checkpoint.payload, signature)
                    checkpoint = next(due, None)
            reached = found[-1].sequence
        payload = statement_payload("head", pool, holdings, self._now())
        yield Statement(payload, self._signer.sign_statement(payload))

    def clock(self) -> ClockView:
        """The clocks."""
        now = self._clock.glance()
        return ClockView(
            civil=now.civil,
            host=self._clock.reference(),
            lease=now.lease,
            frozen=now.frozen,
            explanation=self._clock.explanation,
        )

    async def accept_clock(self, caller: str) -> ClockView:
        """Takes the host's civil time for right (CC-27)."""
        self._clock.accept()
        await self._committer.submit(c.Expire(limit=1))
        _log.info(Event.CLOCK_ACCEPTED, admin=caller)
        return self.clock()

    async def tokens(self, page: PageRequest) -> Page[Token]:
        """All admin tokens."""
        found, token = await self._reader.page(Token, size=page.size, token=page.token)
        return Page(tuple(found), token)

    async def token(self, token_id: str) -> Token:
        """One admin token."""
        found = await self._reader.get(Token, token_id)
        if found is None:
            raise not_found(f"token {token_id}")
        return found

    async def alerts(self, page: PageRequest) -> Page[Alert]:
        """All alerts, newest first."""
        found, token = await self._reader.page(
            Alert, size=page.size, token=page.token, order=("at", "alert_id"), descending=True
        )
        return Page(tuple(found), token)

    async def _exists(self, estate_id: str, pool_id: str) -> None:
        await self.estate(estate_id)
        if pool_id and await self._reader.get(Pool, estate_id, pool_id) is None:
            raise not_found(
                f"pool {estate_id}/{pool_id}", hint=f"`poolkeeper pool list {estate_id}` shows what there is."
            )


def _waiting_view(pending: tuple[PendingKey, ...]) -> NodeView:
    """A name that no node has yet, with the keys that wait for it."""
    first = pending[0].key
    return NodeView(
        estate_id=first.estate_id,
        node_id=first.node_id,
        state="PENDING",
        bindings=(),
        public_key=first.public_key if len(pending) == 1 else b"",
        enrolled_at=None,
        seen_at=first.requested_at,
        seats=0,
        pending=pending,
    )


def statement_payload(kind: str, pool: Pool, holdings: Iterable[Holding], at: int) -> bytes:
    """What a checkpoint or a head says of a pool."""
    return orjson.dumps(
        {
            "kind": kind,
            "pool": f"estates/{pool.estate_id}/pools/{pool.pool_id}",
            "sequence": pool.ledger_sequence,
            "hash": pool.ledger_hash.hex(),
            "time_us": at,
            "holdings": {
                holding.licence_id: {
                    "count": holding.count,
                    "active": holding.active,
                    "quarantined": holding.quarantined,
                }
                for holding in holdings
            },
        }
    )


def _without_due(holding: Holding, due: Counter[Key]) -> Holding:
    """A holding as it is now: quarantines that are over do not count, also before that is written down (MI-19)."""
    over = due[(holding.pool_id, holding.licence_id)]
    return replace(holding, quarantined=holding.quarantined - over) if over else holding
