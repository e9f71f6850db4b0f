"""What can be asked of the state: one frozen class for each command, and what it answers.

Ids are bare (`acme`, `west`), not resource names. Whoever makes a command has checked the shape of its fields;
whether they fit together and exist is decided. `request_id` with `caller` and `digest` makes a command repeatable
(CC-13): the digest is over everything that the request says.
"""

from __future__ import annotations

from collections.abc import Mapping

from poolkeeper_server.domain.frozen import frozen
from poolkeeper_server.domain.receipts import GrantReceipt
from poolkeeper_server.domain.records import (
    Alert,
    Allocation,
    CheckInReason,
    Checkpoint,
    Consumer,
    Counting,
    LicensedBy,
    Pairs,
    Session,
    Token,
    Use,
)
from poolkeeper_server.domain.refusal import Refusal


@frozen
class Command:
    """Base of all commands."""


@frozen
class Request(Command):
    """A command that carries a request id.

    `caller` is the node id, or "admin" with the token id behind a slash. An empty request id is never remembered.
    """

    estate_id: str
    caller: str
    request_id: str
    digest: bytes


# ---- what sessions ask ----------------------------------------------------------------------------------------------


@frozen
class OpenSession(Command):
    """Opens a session whose challenge was signed by `public_key`; answers `SessionOpened` or a refusal that is kept.

    `secret_epoch` and `secret_generation` say when this installation gave the secret to this node, as the secret
    itself proves; 0 where it proves nothing. `source` and `host` are where the machine is, as seen and as it says.
    """

    estate_id: str
    node_id: str
    session_id: str
    domain: str
    public_key: bytes
    secret: bytes
    next_secret: bytes
    secret_epoch: int = 0
    secret_generation: int = 0
    source: str = ""
    host: str = ""


@frozen
class SessionOpened:
    """An open session and the generation of its node's credentials."""

    session: Session
    generation: int
    lease_duration: int
    heartbeat_interval: int


@frozen
class CheckOut(Request):
    """Takes seats for a consumer; answers `Granted`, `Waiting` or a refusal.

    `quantity` 0 leaves the size to `demand`; both empty is one seat. `wait` is 0 for callers who do not wait.
    """

    session_id: str
    product_id: str
    consumer: str = ""
    pseudonym: str = ""
    installation: str = ""
    user: str = ""
    host: str = ""
    quantity: int = 0
    demand: Pairs = ()
    wait: int = 0


@frozen
class Granted:
    """An allocation with the caller's use of it.

    `remaining` is how many microseconds of lease time the client may believe in, counted from the moment at which it
    sent its request; of an installed allocation, until its session has named it (`Renewed.continuation`).
    """

    allocation: Allocation
    use: Use
    remaining: int
    heartbeat_interval: int
    epoch: int
    resumed: bool = False


@frozen
class Waiting:
    """A place in the queue, from 1, and when a seat is expected (civil; None when nothing tells)."""

    place: int
    pool_id: str
    sequence: int
    deadline_lease: int
    estimate: int | None


@frozen
class CancelWait(Command):
    """Leaves the queue; takes back a grant that crossed it."""

    estate_id: str
    session_id: str
    node_id: str
    request_id: str


@frozen
class CheckIn(Request):
    """Ends the caller's use of an allocation; answers the allocation as it is then."""

    session_id: str
    allocation_id: str
    reason: CheckInReason


@frozen
class Known:
    """Everything that a client knows, to be compared with what the daemon knows (CC-29).

    `allocations` has sizes by names; 0 where the client tells none. `receipts` prove what the daemon may not know since
    its state was restored; whom they are of is still to be seen.
    """

    as_of: int
    allocations: Mapping[str, int]
    pending: frozenset[str]
    receipts: tuple[GrantReceipt, ...] = ()


@frozen
class Heartbeat(Command):
    """Renews a session; answers `Renewed`. `digest` is the client's, as a signed 64-bit number.

    `node_id` says for whom it counts where turns are shared; so it does in all commands of sessions.
    `epoch` is that of the newest answer that the client has heard; 0 when it does not say.
    """

    estate_id: str
    session_id: str
    count: int
    digest: int
    known: Known | None = None
    epoch: int = 0
    node_id: str = ""


@frozen
class Notice:
    """News of one allocation that a session must hear; `fence` goes back in its acknowledgement."""

    allocation_id: str
    pool_id: str
    refusal: Refusal
    fence: int


@frozen
class Renewed:
    """A renewed promise. `reconcile` is 0, or the version of the session that the client must account for.

    `continuation` is for what is installed and was named. `resized` has the names and sizes of what the client knows as
    larger than it is. `agrees` says that the client knows all that the session has, and nothing else.
    """

    session: Session
    remaining: int
    continuation: int
    lease_duration: int
    heartbeat_interval: int
    reconcile: int
    notices: tuple[Notice, ...]
    resized: tuple[tuple[str, int], ...]
    epoch: int
    agrees: bool


@frozen
class Acknowledge(Command):
    """Accepts a waiter's grant or lets go of a revoked allocation; answers the allocation."""

    estate_id: str
    session_id: str
    allocation_id: str
    fence: int
    node_id: str = ""


@frozen
class UseSession(Command):
    """Takes note that a session has made a call that asks for nothing to be decided."""

    estate_id: str
    session_id: str


@frozen
class CloseSession(Command):
    """Ends a session and checks its leased seats in; answers `SessionClosed`.

    `told` says that `count` and `digest` are the client's, as in a heartbeat.
    """

    estate_id: str
    session_id: str
    told: bool = False
    count: int = 0
    digest: int = 0
    known: Known | None = None
    node_id: str = ""


@frozen
class SessionClosed:
    """The session, ended; or still open, with the version that the client must account for in `reconcile`."""

    session: Session
    reconcile: int = 0


# ---- what time asks -------------------------------------------------------------------------------------------------


@frozen
class Expire(Command):
    """Ends what is due: sessions, quarantines, waits, unacknowledged grants and revocations, unseen installations.

    The store loads at most `limit` of each kind; answers `Expired`.
    """

    limit: int


@frozen
class Expired:
    """How much was ended; `more` when a limit was reached."""

    ended: int
    more: bool


@frozen
class ServeQueues(Command):
    """Serves the waiters of a pool again, where one batch did not reach them all."""

    estate_id: str
    pool_id: str


@frozen
class AddCheckpoint(Command):
    """Stores a signed checkpoint."""

    checkpoint: Checkpoint


@frozen
class RaiseAlert(Command):
    """Stores an alert, dated with the moment at which it is stored."""

    alert: Alert


# ---- what admins ask ------------------------------------------------------------------------------------------------


@frozen
class PoolSettings:
    """A pool's policy; None leaves a setting as it is, or takes the default for a new pool."""

    title: str | None = None
    minimum_allocation: int | None = None
    lease_duration: int | None = None
    heartbeat_interval: int | None = None
    margin: int | None = None
    counting: Counting | None = None
    skip_quarantine: tuple[str, ...] | None = None
    #: 0 switches reclaiming off.
    reclaim_after: int | None = None
    continuation: int | None = None


@frozen
class CreateEstate(Request):
    """Makes an estate with its Default Pool (EV-1). `honey` are digests of codes that are never issued (CC-6)."""

    title: str
    settings: PoolSettings
    honey: tuple[bytes, ...]


@frozen
class UnfreezeEstate(Request):
    """Lets codes of the estate be redeemed again."""


@frozen
class CreateProduct(Request):
    """Adds a product to the catalogue; `estate_id` is empty."""

    product_id: str
    title: str
    units: Pairs


@frozen
class AddLicence(Request):
    """Adds a purchase to the Default Pool (EV-2); answers the licence."""

    products: tuple[str, ...]
    count: int
    licensed_by: LicensedBy
    order_number: str
    valid_from: int | None
    valid_before: int | None


@frozen
class Move:
    """Seats of a line: a licence id, or an order number with exactly one line in the pool."""

    line: str
    count: int


@frozen
class CreatePool(Request):
    """Makes a pool and moves seats into it from the Default Pool (EV-3, EV-4)."""

    pool_id: str
    settings: PoolSettings
    moves: tuple[Move, ...]


@frozen
class UpdatePool(Request):
    """Changes a pool's settings; `version` None skips the comparison."""

    pool_id: str
    settings: PoolSettings
    version: int | None


@frozen
class MoveSeats(Request):
    """Moves unused seats from one pool to another (EV-5)."""

    source_id: str
    target_id: str
    moves: tuple[Move, ...]


@frozen
class ClosePool(Request):
    """Ends a pool's giving."""

    pool_id: str
    version: int | None


@frozen
class UnfreezePool(Request):
    """Lets codes of the pool be redeemed again."""

    pool_id: str


@frozen
class IssueCode(Request):
    """Issues a code (CC-2). `digests` are of random digits, drawn afresh; the first that is free is taken.

    Answers `CodeIssued`.
    """

    pool_id: str
    node_id: str
    domain: str
    replace: bool
    lifetime: int
    code_id: str
    digests: tuple[bytes, ...]


@frozen
class CodeIssued:
    """Which code was issued; `draw` is the index of its digest, -1 when this is a repetition."""

    code_id: str
    draw: int


@frozen
class RevokeCode(Request):
    """Makes a code worthless."""

    pool_id: str
    code_id: str


@frozen
class Enrol(Command):
    """Redeems a code (CC-3); answers `Enrolled` or a refusal that is counted.

    Estate and pool are empty where the request names none; `bucket` is where attempts at that name are counted if no
    pool has it. `valid` is False where the code is malformed or the key's proof is wrong; then the attempt only counts.
    """

    source: str
    estate_id: str
    pool_id: str
    digest: bytes
    public_key: bytes
    valid: bool
    secret: bytes
    bucket: int = 0


@frozen
class Enrolled:
    """Which node was enrolled, and where it draws."""

    node_id: str
    pool_id: str
    domain: str


@frozen
class ApproveNode(Request):
    """Enrols the node whose key has that fingerprint, or lets one machine of a copied identity go on: of `session_id`.

    `secrets` are the hashes of the rolling secrets that the key is given when it asks again, by code.
    """

    node_id: str
    fingerprint: str
    secrets: tuple[tuple[str, bytes], ...] = ()
    session_id: str = ""


@frozen
class RejectNode(Request):
    """Turns one waiting key down, or with an empty fingerprint all keys and codes for that name."""

    node_id: str
    fingerprint: str = ""


@frozen
class RevokeNode(Request):
    """Ends a node's credentials (CC-9)."""

    node_id: str
    reason: str
    force: bool


@frozen
class MigrateNode(Request):
    """Moves a node's installed allocations to the pool that it is bound to now (CC-8)."""

    node_id: str


@frozen
class AddConsumer(Request):
    """Registers a consumer."""

    consumer: str
    user: str
    host: str


@frozen
class RemoveConsumer(Request):
    """Takes a consumer off the register."""

    consumer: str


@frozen
class ReleaseAllocation(Request):
    """Takes an allocation back (CC-23)."""

    allocation_id: str
    reason: str
    no_quarantine: bool
    force: bool


@frozen
class CreateToken(Request):
    """Stores an admin credential; `estate_id` is empty, the token names its own."""

    token: Token


@frozen
class RevokeToken(Request):
    """Makes an admin credential worthless."""

    token_id: str


@frozen
class Done:
    """The effect of an admin's command: the id of what it made or changed. `repeated` when it had been done before."""

    subject: str
    repeated: bool = False


Answer = (
    SessionOpened
    | Granted
    | Waiting
    | Allocation
    | Renewed
    | SessionClosed
    | Expired
    | CodeIssued
    | Enrolled
    | Done
    | Consumer
    | None
    | Refusal
)
