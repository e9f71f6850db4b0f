"""What those who face callers (transport, later the console) ask of the services, and what they get.

Writes are the commands of the domain. Reads give the views below: records as they are stored, with what belongs
beside them. Every method may raise a Refusal; NOT_FOUND where a name leads to nothing.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from poolkeeper_server.domain.commands import Answer, Command, Done, Granted, IssueCode, Notice, Renewed, Waiting
from poolkeeper_server.domain.commands import Request as AdminRequest
from poolkeeper_server.domain.frozen import frozen
from poolkeeper_server.domain.receipts import GrantReceipt
from poolkeeper_server.domain.records import (
    Alert,
    Allocation,
    AllocationState,
    Binding,
    Code,
    Consumer,
    Entry,
    Estate,
    Holding,
    Licence,
    PendingEnrolment,
    Pool,
    Product,
    Session,
    Token,
    Use,
)
from poolkeeper_server.domain.refusal import Refusal
from poolkeeper_server.services.grants import PublishedKey, Signature
from poolkeeper_server.services.large import Large
from poolkeeper_server.services.tokens import SessionIdentity

T = TypeVar("T")


# ---- what sessions are told without asking --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Served:
    """News of a waiting check-out: a new place, its grant, or why there will be none."""

    request_id: str
    answer: Granted | Waiting | Refusal


@dataclass(frozen=True, slots=True)
class Noticed:
    """News of an allocation of the session; `epoch` leads its fence."""

    notice: Notice
    epoch: int


@dataclass(frozen=True, slots=True)
class Paced:
    """Heartbeats are wanted at this interval from now on, in microseconds."""

    heartbeat_interval: int


@dataclass(frozen=True, slots=True)
class Drained:
    """The daemon is about to stop, and takes no requests any more."""


Push = Served | Noticed | Paced | Drained


# ---- the check-out protocol -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    """What a client must know before it trusts this installation; `retention` in microseconds."""

    version: str
    authority: str
    signing_keys: tuple[PublishedKey, ...]
    retention: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolmentAttempt:
    """A code and a key as a stranger presents them: nothing of it is checked.

    `pool` is the name as it came and was signed; estate and pool are empty where it is no name of a pool, which then
    counts against its source only.
    """

    source: str
    estate_id: str
    pool_id: str
    pool: str
    code: str
    public_key: bytes
    proof: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolment:
    """An enrolled node, and the secret for its first session."""

    estate_id: str
    node_id: str
    pool_id: str
    domain: str
    rolling_secret: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionAttempt:
    """A signed challenge and the newest rolling secret of a node; `source` and `host` as seen and as it says."""

    estate_id: str
    node_id: str
    domain: str
    challenge: bytes
    signature: bytes
    rolling_secret: bytes
    source: str
    host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedSession:
    """An open session with its credential; spans in microseconds."""

    identity: SessionIdentity
    token: str
    lease_duration: int
    heartbeat_interval: int
    rolling_secret: bytes


@dataclass(frozen=True, slots=True)
class PageRequest:
    """At most `size` items, from where `token` says; an empty token is the start."""

    size: int
    token: str = ""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Items, and the token of the next page; empty at the end."""

    items: tuple[T, ...]
    next_token: str = ""


@dataclass(frozen=True, slots=True)
class AllocationView:
    """An allocation with its uses."""

    allocation: Allocation
    uses: tuple[Use, ...] = ()


class Leasing(Protocol):
    """What nodes ask."""

    def server_info(self) -> ServerInfo:
        """What a client must know before it trusts this installation."""

    async def enrol(self, attempt: EnrolmentAttempt) -> Enrolment:
        """Redeems a code."""

    def challenge(self, estate_id: str, node_id: str) -> bytes:
        """A challenge to sign; given for nodes that do not exist too, so that nobody learns which do."""

    async def open_session(self, attempt: SessionAttempt) -> OpenedSession:
        """Opens the session that belongs to the challenge."""

    def session_of(self, token: str) -> SessionIdentity:
        """Whose session token it is. Raises Refusal for a bad one, and when its node is not to be served any more."""

    def submit(self, command: Command, *, within: float | None = None) -> Future[Answer]:
        """The future answer of a command of the check-out protocol; a refusal is an answer.

        A check-out whose future was cancelled, or that is not begun `within` so many seconds, is dropped. Raises
        Refusal at once when the queue is full or the daemon drains.
        """

    def begin_stream(self, identity: SessionIdentity) -> Callable[[], None]:
        """Counts a stream of the caller's node; call what it gives when the stream has ended. Raises Refusal."""

    def follow(self, identity: SessionIdentity, listener: Callable[[Push], None]) -> Callable[[], None]:
        """Has the listener called, in the loop, with what the session should be told; gives what ends that."""

    def fresh_token(self, identity: SessionIdentity, promise_end: int) -> str:
        """A token to replace that of a session renewed until then (lease time); empty while the present one will do."""

    def pseudonym(self, estate_id: str, node_id: str, consumer: str) -> str:
        """The name under which the ledger knows a consumer."""

    def civil_now(self) -> int:
        """Civil time in microseconds."""

    def sign_grant(self, identity: SessionIdentity, granted: Granted) -> str:
        """The grant as a JWS."""

    def grant_receipt(self, granted: Granted, *, until: int | None) -> bytes:
        """What proves the grant, which is promised until that civil instant, after a restore."""

    def session_receipt(self, renewed: Renewed, *, until: int) -> bytes:
        """What prolongs the proofs of all that the session has."""

    @property
    def large(self) -> Large:
        """Turns of large requests."""

    async def is_quiet(self) -> bool:
        """Whether receipts could prove anything: in some pool, what is held may not be known since a restore."""

    async def proven(self, session_receipt: bytes, receipts: Sequence[bytes]) -> list[GrantReceipt]:
        """What receipts prove, each with the newest promise proven; those of other installations are left out."""

    async def node_allocations(self, identity: SessionIdentity, page: PageRequest) -> Page[AllocationView]:
        """The allocations of the caller's node that take seats, and its own quarantined ones."""


# ---- administration -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HoldingView:
    """A holding and the licence it is a share of."""

    holding: Holding
    licence: Licence


@dataclass(frozen=True, slots=True)
class LicenceView:
    """A licence and where its seats lie."""

    licence: Licence
    holdings: tuple[Holding, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolView:
    """A pool with its holdings. `thaw_at` and `quiet_until` are civil; None unless enrolment is frozen, it is quiet."""

    pool: Pool
    holdings: tuple[HoldingView, ...]
    thaw_at: int | None
    quiet_until: int | None
    node_count: int
    waiting: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeView:
    """A code and its state at this moment: ISSUED, PENDING, SPENT, REVOKED or EXPIRED."""

    code: Code
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GuessRisk:
    """How likely it is that somebody guesses a code within a year (CC-7); `warning` is empty below 1e-4.

    `yearly_pending` is how many keys of strangers may come to wait if `sources` of them never stop; `attempts` have
    failed, as far as it is kept, since the civil instant `attempts_since`.
    """

    live_codes: int
    yearly_probability: float
    warning: str
    sources: int
    yearly_pending: float
    attempts: int
    attempts_since: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedCode:
    """A code, its digits (empty when the request was answered before), and the pin for the enrol line."""

    code: CodeView
    digits: str
    pin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingKey:
    """A key that waits for an admin, and where it would be bound."""

    key: PendingEnrolment
    pool_id: str
    domain: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """A node, or a name for which keys wait; instants are civil.

    `state` is ENROLLED, PENDING, REVOKED, COPIED or REJECTED; `public_key` is that of the enrolled node.
    `sessions` are those by which machines can be told apart, newest first; listings leave them out.
    """

    estate_id: str
    node_id: str
    state: str
    bindings: tuple[Binding, ...]
    public_key: bytes
    enrolled_at: int | None
    seen_at: int | None
    seats: int
    pending: tuple[PendingKey, ...] = ()
    sessions: tuple[Session, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockView:
    """The installation's clocks in microseconds, and why it is frozen if it is."""

    civil: int
    host: int
    lease: int
    frozen: bool
    explanation: str


@frozen
class TokenWish(AdminRequest):
    """A token that an admin wants; `estate_id` is empty and `scope` the only estate it may touch, if any.

    `lifetime` in microseconds, None for no end.
    """

    title: str
    scope: str
    lifetime: int | None


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A token and its text; empty when the request was answered before."""

    token: Token
    text: str


@dataclass(frozen=True, slots=True)
class Statement:
    """A signed checkpoint or head of a ledger."""

    payload: bytes
    signature: Signature


class Administration(Protocol):
    """What admins ask. Whether the admin may touch the estate was checked before."""

    async def apply(self, command: AdminRequest) -> Done:
        """Carries a command out; what only the daemon can add to it (digests, secrets) it adds."""

    async def issue_code(self, command: IssueCode) -> IssuedCode:
        """Issues a code; code id and digests of the command are empty, a lifetime of 0 is the default."""

    async def create_token(self, wish: TokenWish) -> IssuedToken:
        """Makes a token."""

    async def estate(self, estate_id: str) -> Estate:
        """One estate."""

    async def estates(self, page: PageRequest) -> Page[Estate]:
        """All estates, by id."""

    async def product(self, product_id: str) -> Product:
        """One product."""

    async def products(self, page: PageRequest) -> Page[Product]:
        """The catalogue, by id."""

    async def licence(self, estate_id: str, licence_id: str) -> LicenceView:
        """One licence."""

    async def licences(self, estate_id: str, page: PageRequest) -> Page[LicenceView]:
        """An estate's licences, by id."""

    async def pool(self, estate_id: str, pool_id: str) -> PoolView:
        """One pool."""

    async def pools(self, estate_id: str, page: PageRequest) -> Page[PoolView]:
        """An estate's pools, by id."""

    async def code(self, estate_id: str, code_id: str) -> CodeView:
        """One code; a honey code is not found."""

    async def codes(self, estate_id: str, pool_id: str, page: PageRequest) -> Page[CodeView]:
        """The codes of a pool, or of the estate where `pool_id` is empty; honey codes are left out."""

    async def risk(self, estate_id: str) -> GuessRisk:
        """The risk of an estate's live codes, or of the installation's where it is empty."""

    async def node(self, estate_id: str, node_id: str) -> NodeView:
        """One node."""

    async def nodes(self, estate_id: str, pool_id: str, page: PageRequest, *, pending: bool) -> Page[NodeView]:
        """The nodes of an estate, or those bound to a pool; or only those that wait for approval."""

    async def consumer(self, estate_id: str, consumer: str) -> Consumer:
        """One registered consumer."""

    async def consumers(self, estate_id: str, page: PageRequest) -> Page[Consumer]:
        """An estate's registered consumers."""

    async def allocation(self, estate_id: str, allocation_id: str) -> AllocationView:
        """One allocation."""

    async def allocations(
        self, estate_id: str, pool_id: str, page: PageRequest, *, state: AllocationState | None
    ) -> Page[AllocationView]:
        """The allocations of a pool or an estate in a state; None is all that take seats."""

    async def node_installed(self, estate_id: str, node_id: str) -> tuple[AllocationView, ...]:
        """A node's installed allocations."""

    async def entries(self, estate_id: str, pool_id: str, page: PageRequest, *, newest_first: bool) -> Page[Entry]:
        """A pool's ledger."""

    def export(self, estate_id: str, pool_id: str) -> AsyncIterator[Entry | Statement]:
        """The whole ledger with its checkpoints, and last a head signed now."""

    def clock(self) -> ClockView:
        """The clocks."""

    async def accept_clock(self, caller: str) -> ClockView:
        """Takes the host's civil time for right (CC-27)."""

    async def tokens(self, page: PageRequest) -> Page[Token]:
        """All admin tokens."""

    async def token(self, token_id: str) -> Token:
        """One admin token."""

    async def alerts(self, page: PageRequest) -> Page[Alert]:
        """All alerts, newest first."""
