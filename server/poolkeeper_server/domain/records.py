"""The records that state consists of: one frozen class for one table of the store.

A record's key is the tuple of its leading fields named in `KEYS`. Records have no slots: one that has a dictionary is
made of another in a sixth of the time, and that is most of what deciding does. Instants are microseconds; a name that
ends in `_lease` is lease time, every other instant is civil time. Spans are microseconds too.
"""

from __future__ import annotations

from dataclasses import fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, TypeVar

from poolkeeper_server.domain.frozen import frozen
from poolkeeper_server.domain.moment import DAY

R = TypeVar("R")

if TYPE_CHECKING:
    from dataclasses import replace as replace  # noqa: PLC0414 - calls of it are checked as calls of that one
else:

    def replace(record: R, /, **changes: object) -> R:
        """As `dataclasses.replace`, for records, without a call of their `__init__`."""
        made = object.__new__(type(record))
        # Of records with a dictionary of their own: one that is filled instead takes half as long again.
        made.__dict__ = record.__dict__ | changes
        return made


#: How long an installed allocation may be used on without contact, unless its pool says otherwise: ten days of trying
#: again, and thirty of grace (EV-23).
CONTINUATION: Final = 40 * DAY

Key = tuple[Any, ...]
Pairs = tuple[tuple[str, int], ...]


class Word(StrEnum):
    """One of a fixed set of words, with the hash of its text: the one of an enumeration is a call."""

    __hash__ = str.__hash__


class LicensedBy(Word):
    """What counts as one."""

    CONCURRENT_USER = "CONCURRENT_USER"
    INSTALLED_INSTANCE = "INSTALLED_INSTANCE"


class Kind(Word):
    """How long an allocation lives: with its session, or until it is checked in."""

    LEASED = "LEASED"
    INSTALLED = "INSTALLED"


KIND_OF: Final = {LicensedBy.CONCURRENT_USER: Kind.LEASED, LicensedBy.INSTALLED_INSTANCE: Kind.INSTALLED}


class PoolState(Word):
    """Whether a pool gives seats."""

    ACTIVE = "ACTIVE"
    CLOSED = "CLOSED"


class Counting(Word):
    """What one concurrent seat is counted by."""

    CONSUMER = "CONSUMER"
    USER = "USER"
    HOST = "HOST"
    USER_HOST = "USER_HOST"


class AllocationState(Word):
    """Where an allocation is in its life."""

    ACTIVE = "ACTIVE"
    PROVISIONAL = "PROVISIONAL"
    REVOKED = "REVOKED"
    QUARANTINED = "QUARANTINED"
    ENDED = "ENDED"


#: States in which the seats count as active in their holdings.
SEATED: Final = frozenset({AllocationState.ACTIVE, AllocationState.PROVISIONAL, AllocationState.REVOKED})


class SessionState(Word):
    """OPEN sessions are renewed; REVOKED ones run out; ENDED ones hold nothing."""

    OPEN = "OPEN"
    REVOKED = "REVOKED"
    ENDED = "ENDED"


class NodeState(Word):
    """Whether a node may open sessions."""

    ENROLLED = "ENROLLED"
    REVOKED = "REVOKED"
    COPIED = "COPIED"


class CodeState(Word):
    """HONEY codes are never issued; using one raises an alert (CC-6)."""

    ISSUED = "ISSUED"
    SPENT = "SPENT"
    REVOKED = "REVOKED"
    HONEY = "HONEY"


class CheckInReason(Word):
    """Why an allocation is given back (CC-24)."""

    ENDED = "ENDED"
    UNINSTALLED = "UNINSTALLED"
    UNIT_REMOVED = "UNIT_REMOVED"
    NODE_DELETED = "NODE_DELETED"


class AlertKind(Word):
    """What an admin is alerted to."""

    CODE_FAILURES = "CODE_FAILURES"
    POOL_FROZEN = "POOL_FROZEN"
    HONEY_CODE = "HONEY_CODE"
    NODE_COPIED = "NODE_COPIED"
    CLOCK_FROZEN = "CLOCK_FROZEN"
    EPOCH_BEGUN = "EPOCH_BEGUN"
    STORE_UNWRITABLE = "STORE_UNWRITABLE"


@frozen
class Estate:
    """A customer account. `next_licence` numbers its purchases, `next_waiter` those who wait for seats."""

    estate_id: str
    title: str
    created_at: int
    enrolment_frozen: bool = False
    next_licence: int = 1
    next_waiter: int = 1


@frozen
class Product:
    """What a licence permits to use; `units` says what one seat covers (CC-19)."""

    product_id: str
    title: str
    units: Pairs
    created_at: int


@frozen
class Licence:
    """One purchase line. Valid from `valid_from` until before `valid_before`; None is without limit."""

    estate_id: str
    licence_id: str
    products: tuple[str, ...]
    count: int
    licensed_by: LicensedBy
    order_number: str
    valid_from: int | None
    valid_before: int | None
    created_at: int


@frozen
class Pool:
    """Where licences are drawn from, its policy, and the head of its ledger.

    `continuation` is how long an installed allocation may be used on after the last contact (EV-23).

    While lease time is before `quiet_until_lease` nobody new gets a seat: what was granted after the state that was
    restored is believed in still. `restored_epoch` and `restored_sequence` are the fence up to which the restored
    state knows everything; all three are 0 where nothing was ever restored.
    """

    estate_id: str
    pool_id: str
    title: str
    state: PoolState
    minimum_allocation: int
    lease_duration: int
    heartbeat_interval: int
    margin: int
    counting: Counting
    skip_quarantine: tuple[str, ...]
    reclaim_after: int | None
    created_at: int
    version: int
    ledger_sequence: int
    ledger_hash: bytes
    quiet_until_lease: int = 0
    restored_epoch: int = 0
    restored_sequence: int = 0
    continuation: int = CONTINUATION


@frozen
class Holding:
    """The share of one licence that lies in one pool, and its counters."""

    estate_id: str
    pool_id: str
    licence_id: str
    count: int
    active: int = 0
    quarantined: int = 0

    @property
    def free(self) -> int:
        """Seats that nobody holds; negative where the line is over its count."""
        return self.count - self.active - self.quarantined


@frozen
class Node:
    """An enrolled server or encoder.

    `generation` rises whenever its credentials end, so that older tokens are known. `secret` and `previous_secret` are
    hashes of the rolling secret, which was given in `secret_epoch` to the session `secret_session`; to none where an
    enrolment gave it. `copied_at` is set from when it was found on two machines until it is enrolled anew (CC-32).
    `seen_lease` is the newest contact of its sessions that have ended; open ones know their own.
    """

    estate_id: str
    node_id: str
    public_key: bytes
    previous_key: bytes
    state: NodeState
    generation: int
    enrolled_at: int
    secret: bytes
    previous_secret: bytes
    end_reason: str
    secret_epoch: int = 1
    secret_session: str = ""
    copied_at: int | None = None
    seen_lease: int = 0


@frozen
class Binding:
    """The pool that a node, or a domain on it, draws from; the empty domain is the node itself."""

    estate_id: str
    node_id: str
    domain: str
    pool_id: str
    bound_at: int


@frozen
class PendingEnrolment:
    """A key that came with a right code while enrolment was frozen, and waits for an admin (CC-5)."""

    estate_id: str
    node_id: str
    code_id: str
    fingerprint: str
    public_key: bytes
    source: str
    requested_at: int
    rejected: bool = False


@frozen
class Code:
    """An authentication code, known by a keyed hash only (CC-2)."""

    estate_id: str
    code_id: str
    pool_id: str
    node_id: str
    domain: str
    digest: bytes
    replace: bool
    state: CodeState
    created_at: int
    expires_at: int
    redeemed_at: int | None
    redeemed_key: bytes


@frozen
class Limit:
    """Failed enrolments of one source, pool or the installation (CC-5).

    `attempts` are all that failed at a pool since `first_at`, also while it is frozen; `known` are the newest attempts
    of a source at frozen ones.
    """

    scope: str
    subject: str
    failures: int
    first_at: int
    last_at: int
    blocked_until: int
    block: int
    attempts: int = 0
    known: tuple[str, ...] = ()


@frozen
class Consumer:
    """A consumer that an admin registered: known in the whole estate, not per node."""

    estate_id: str
    consumer: str
    user: str
    host: str
    created_at: int


@frozen
class Session:
    """One running SDK instance; the arbiter of every leased seat in it (CC-10, CC-16).

    `promised_lease` is the end of what the client was told, `expires_lease` a margin later, and `continued_lease` the
    end of what it was told of installed seats; none of them ever falls. `generation` is that of its node's credentials.
    `digest` and `count` sum up its uses as the client does; `version` counts its grants, and those up to `named` the
    client has shown to know; `dirty` says that a heartbeat must look at the allocations; `waiting` counts its waiters.
    `source` and `host` say where it was opened from, `secret` is the hash of the rolling secret that it was given;
    `used` says that it has made a call (CC-32).
    """

    estate_id: str
    session_id: str
    node_id: str
    domain: str
    pool_id: str
    state: SessionState
    promised_lease: int
    expires_lease: int
    opened_at: int
    renewed_at: int
    count: int
    digest: int
    version: int
    dirty: bool
    waiting: int
    ended_at: int | None
    end_reason: str
    source: str = ""
    host: str = ""
    secret: bytes = b""
    used: bool = False
    generation: int
    continued_lease: int
    renewed_lease: int
    named: int


@frozen
class Allocation:
    """Seats given to a consumer.

    `lines` says how many from which licence. `shared` allocations have at most one live one per counting key; others
    are counted by themselves. `deadline_lease` is set while PROVISIONAL or REVOKED: then the seats come back. `fence`
    is the ledger sequence of its newest change that a client must know. `seen_lease` is a contact of its node, though
    perhaps not the newest.
    """

    estate_id: str
    allocation_id: str
    pool_id: str
    product_id: str
    licensed_by: LicensedBy
    kind: Kind
    state: AllocationState
    counting_key: str
    shared: bool
    lines: Pairs
    quantity: int
    node_id: str
    consumer: str
    pseudonym: str
    installation: str
    user: str
    host: str
    allocated_at: int
    fence: int
    deadline_lease: int | None
    quarantine_until: int | None
    release_without_quarantine: bool
    ended_at: int | None
    end_reason: str
    seen_lease: int


@frozen
class Use:
    """A session's use of an allocation, or what sessions left to their node; the allocation ends with its last (CC-30).

    `pool_id` is the pool under whose name the session knows it, which stays when seats move. `granted_lease` is when
    the session was granted its size; None where it took up what had rested. A `version` of 0 needs no naming any more.
    What was left has no session, and `until_lease`: the end of what the last session that used it was promised.
    `quantity` is 0 for a session that only has to hear that the allocation is taken from its node (CC-33).
    """

    estate_id: str
    allocation_id: str
    holder: str
    session_id: str
    node_id: str
    quantity: int
    demand: Pairs
    request_id: str
    version: int
    pool_id: str
    generation: int
    granted_lease: int | None
    until_lease: int | None


@frozen
class Queue:
    """The waiters of one product in one pool.

    At the civil instant `look_at` the dates of a line change what may be given to them; None: that never happens.
    """

    estate_id: str
    pool_id: str
    product_id: str
    length: int
    look_at: int | None = None


@frozen
class Waiter:
    """A check-out that waits for its turn (CC-18); `sequence` is its number, of one sequence in the estate."""

    estate_id: str
    pool_id: str
    product_id: str
    sequence: int
    session_id: str
    node_id: str
    request_id: str
    request_digest: bytes
    deadline_lease: int
    consumer: str
    pseudonym: str
    installation: str
    user: str
    host: str
    quantity: int
    demand: Pairs


@frozen
class Outcome:
    """What a request id has done (CC-13). `subject` is the id of what it made or changed.

    Ids come in the order of time from most callers: led by them, what many callers do at once is stored side by side.
    """

    estate_id: str
    request_id: str
    caller: str
    digest: bytes
    subject: str
    at: int


@frozen
class Entry:
    """A ledger entry as it is stored and hashed."""

    estate_id: str
    pool_id: str
    sequence: int
    body: bytes
    hash: bytes


@frozen
class Checkpoint:
    """A signed statement of a pool's counters and head."""

    estate_id: str
    pool_id: str
    sequence: int
    payload: bytes
    key_id: str
    signature: bytes


@frozen
class Token:
    """An admin credential, known by its hash; an empty estate is the whole installation."""

    token_id: str
    digest: bytes
    title: str
    estate_id: str
    created_at: int
    expires_at: int | None
    revoked_at: int | None


@frozen
class Alert:
    """Something that an admin should know of."""

    alert_id: str
    kind: AlertKind
    at: int
    subject: str
    message: str


#: How many leading fields make a record's key.
KEYS: Final[dict[type, int]] = {
    Estate: 1,
    Product: 1,
    Licence: 2,
    Pool: 2,
    Holding: 3,
    Node: 2,
    Binding: 3,
    PendingEnrolment: 4,
    Code: 2,
    Limit: 2,
    Consumer: 2,
    Session: 2,
    Allocation: 2,
    Use: 3,
    Queue: 3,
    Waiter: 4,
    Outcome: 3,
    Entry: 3,
    Checkpoint: 3,
    Token: 1,
    Alert: 1,
}

#: The names of the key fields.
KEY_FIELDS: Final = {kind: tuple(field.name for field in fields(kind))[:size] for kind, size in KEYS.items()}


def made(kind: type[R], values: dict[str, object]) -> R:
    """A record of all its fields' values, which are its own from then on and not looked at: what a store has kept."""
    record = object.__new__(kind)
    record.__dict__ = values
    return record
