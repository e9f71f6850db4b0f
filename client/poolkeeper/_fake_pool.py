"""What the fake server knows: one pool, its seats, sessions and waiters."""

from __future__ import annotations

import hashlib
import itertools
import os
import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from google.protobuf.timestamp_pb2 import Timestamp

from poolkeeper._core.digest import weight
from poolkeeper._core.requests import duration, span_of
from poolkeeper._core.signing import enrolment_text, session_text
from poolkeeper.v1 import errors_pb2
from poolkeeper.v1 import licensing_pb2 as pb

_START: Final = 1_800_000_000.0


CONTINUATION = 40 * 86_400.0
"""Seconds for which what is installed may be used after the last contact, as of a pool that says nothing else."""


@dataclass(slots=True)
class Refusal(Exception):
    """An answer that is an error."""

    reason: str
    message: str
    denial: errors_pb2.Denial | None = None
    retry_after: float | None = None


@dataclass(slots=True)
class Seats:
    """One allocation."""

    name: str
    product: str
    node: str
    key: tuple[str, ...]
    request: pb.CheckOutRequest
    kind: pb.AllocationKind.ValueType
    allocated_at: float
    fence: int
    state: pb.AllocationState.ValueType = pb.ALLOCATION_STATE_ACTIVE
    uses: dict[str, int] = field(default_factory=dict)
    """Seats by session; an installed one has its use under the empty name."""
    held: int = 0
    """Seats of one that is quarantined, or revoked."""
    free_at: float = 0.0
    resumed: bool = False

    @property
    def quantity(self) -> int:
        """Seats taken, as large as the largest use."""
        return max(self.uses.values(), default=self.held)

    @property
    def takes_seats(self) -> bool:
        """Whether they are missing from the pool."""
        return self.state != pb.ALLOCATION_STATE_ENDED


@dataclass(slots=True)
class Session:
    """An open or ended session."""

    name: str
    node: str
    expires_at: float
    open: bool = True
    used: bool = False
    installed: set[str] = field(default_factory=set)
    notices: dict[str, pb.AllocationNotice] = field(default_factory=dict)
    push: Callable[[pb.ConnectResponse], None] | None = None


@dataclass(slots=True)
class Waiter:
    """A check-out that waits for a seat."""

    session: Session
    request: pb.CheckOutRequest
    deadline: float
    answered: threading.Event = field(default_factory=threading.Event)
    granted: pb.Granted | None = None
    refusal: Refusal | None = None
    told: Callable[[pb.Waiting], None] | None = None
    place: int = 0

    def tell(self, place: int) -> None:
        """Tells its place to one who listens, unless it is the one that it was told."""
        if self.told is not None and place != self.place:
            self.place = place
            self.told(pb.Waiting(place=place))

    def answer(self, granted: pb.Granted | None = None, refusal: Refusal | None = None) -> None:
        """Ends the waiting."""
        self.granted, self.refusal = granted, refusal
        self.answered.set()


@dataclass(slots=True)
class Product:
    """What the pool has of a product."""

    seats: int
    installed: bool


class FakePool:
    """The state of a fake server; whoever calls it holds `lock`."""

    def __init__(self, *, pool: str, lease: float, heartbeat: float, minimum_allocation: float) -> None:
        """An empty pool. Spans are in seconds."""
        self.pool = pool
        self.lease = lease
        self.heartbeat = heartbeat
        self.minimum_allocation = minimum_allocation
        self.stream_allowed = True
        """Whether Connect is served; otherwise it is refused as UNIMPLEMENTED."""
        self.calls: Counter[str] = Counter()
        """How often each method was called, over the stream too."""
        self.now = _START
        self.lock = threading.RLock()
        self.products: dict[str, Product] = {}
        self.codes: dict[str, tuple[str, bytes | None]] = {}
        self.nodes: dict[str, bytes] = {}
        self.ended_nodes: dict[str, str] = {}
        self.secrets: dict[str, list[bytes]] = {}
        self.newest: dict[str, str] = {}
        self.sessions: dict[str, Session] = {}
        self.seats: dict[str, Seats] = {}
        self.outcomes: dict[tuple[str, str], tuple[bytes, str | Refusal]] = {}
        self.waiters: deque[Waiter] = deque()
        self.failures: dict[str, deque[Refusal]] = {}
        self.sequence = itertools.count(1)

    @property
    def estate(self) -> str:
        """For example estates/acme."""
        return "/".join(self.pool.split("/")[:2])

    def available(self, product: str) -> int:
        """Free seats of a product."""
        return self.products[product].seats - self.taken(product)

    def bind(self, node: str, public_key: bytes) -> None:
        """Enrols a node with a key."""
        self.nodes[node] = public_key
        self.ended_nodes.pop(node, None)
        self.secrets[node] = [os.urandom(16)]
        self.newest.pop(node, None)

    def taken(self, product: str, state: int | None = None) -> int:
        """Seats of a product that are not free."""
        return sum(
            seats.quantity
            for seats in self.seats.values()
            if seats.product == product and seats.takes_seats and (state is None or seats.state == state)
        )

    def enrol(self, request: pb.EnrolRequest) -> pb.EnrolResponse:
        """Answers Enrol."""
        node, key = self.codes.get(request.code, ("", None))
        try:
            Ed25519PublicKey.from_public_bytes(request.public_key).verify(
                request.proof, enrolment_text(request.pool, request.code)
            )
        except (InvalidSignature, ValueError):
            node = ""
        if not node or request.pool != self.pool or (key or request.public_key) != request.public_key:
            raise Refusal("CODE_NOT_ACCEPTED", "The code was not accepted.")
        if key is None:
            self.codes[request.code] = (node, request.public_key)
            self.bind(node, request.public_key)
        return pb.EnrolResponse(node=node, pool=self.pool, rolling_secret=self.secrets[node][0])

    def open_session(self, request: pb.OpenSessionRequest) -> pb.OpenSessionResponse:
        """Answers OpenSession."""
        key = self.nodes.get(request.node)
        try:
            Ed25519PublicKey.from_public_bytes(key or b"").verify(
                request.signature, session_text(request.node, request.domain, request.challenge)
            )
        except (InvalidSignature, ValueError):
            raise Refusal("UNAUTHENTICATED", "The node is not known here.") from None
        self.require_node(request.node)
        name = f"{request.node}/sessions/{hashlib.sha256(request.challenge).hexdigest()[:16]}"
        secrets = self.secrets[request.node]
        if name not in self.sessions:
            # The current one, or the one before while the session that got the newer has made no call (CC-32).
            newest = self.sessions.get(self.newest.get(request.node, ""))
            lost = newest is None or not newest.used
            if request.rolling_secret != secrets[-1] and not (lost and request.rolling_secret in secrets):
                self.ended_nodes[request.node] = "NODE_COPIED"
                self.require_node(request.node)
            secrets[:] = [request.rolling_secret, os.urandom(16)]
            self.sessions[name] = Session(name, request.node, self.now + self.lease)
            self.newest[request.node] = name
        return pb.OpenSessionResponse(
            session=name,
            session_token=name,
            pool=self.pool,
            lease_duration=duration(self.lease),
            heartbeat_interval=duration(self.heartbeat),
            rolling_secret=secrets[-1],
        )

    def session_of(self, token: str, *, leaving: bool = False) -> Session:
        """The open session of a token; `leaving`: also of a node that may not go on."""
        session = self.sessions.get(token)
        if session is None:
            raise Refusal("UNAUTHENTICATED", "The session token is not known.")
        session.used = True
        if not leaving:
            self.require_node(session.node)
        if not session.open:
            raise Refusal("LEASE_EXPIRED", "The session has ended because its promise ran out.")
        return session

    def require_node(self, node: str) -> None:
        """Refuses a node that an admin ended."""
        if node in self.ended_nodes:
            raise Refusal(self.ended_nodes[node], "This node may not go on.")

    def check_out(self, session: Session, request: pb.CheckOutRequest) -> pb.Granted | Waiter:
        """A grant, or the waiter that it will be answered to; raises a refusal."""
        key = (session.node, request.request_id)
        digest = hashlib.sha256(request.SerializeToString(deterministic=True)).digest()
        if key in self.outcomes:
            before, outcome = self.outcomes[key]
            if before != digest:
                raise Refusal("REQUEST_ID_REUSED", "The request id was used for another request.")
            if isinstance(outcome, Refusal):
                raise outcome
            seats = self.seats[outcome]
            if session.name not in seats.uses and "" not in seats.uses:
                raise Refusal("LEASE_EXPIRED", "The allocation is over.")
            return self.granted(session, seats)
        for waiter in self.waiters:
            if (waiter.session.node, waiter.request.request_id) == key:
                waiter.session = session
                waiter.answered.clear()
                return waiter
        product = self.products.get(short(request.product))
        if product is None:
            raise Refusal("NOT_FOUND", f"There is no product {short(request.product)}.")
        queued = any(short(one.request.product) == short(request.product) for one in self.waiters)
        seats_or_none = None if queued and span_of(request.wait) else self.take(session, request)
        if seats_or_none is not None:
            self.outcomes[key] = (digest, seats_or_none.name)
            return self.granted(session, seats_or_none)
        if not span_of(request.wait):
            # A denial takes nothing, so the same id may be tried again.
            raise self.denial(request, "NO_SEAT_AVAILABLE")
        waiter = Waiter(session, request, self.now + span_of(request.wait))
        self.waiters.append(waiter)
        return waiter

    def take(self, session: Session, request: pb.CheckOutRequest, *, provisional: bool = False) -> Seats | None:
        """Seats for a request, or None when there are too few."""
        name = short(request.product)
        product = self.products[name]
        need = request.quantity or 1
        consumer = request.installation or request.consumer if product.installed else request.consumer
        key = (name, session.node, consumer)
        use = "" if product.installed else session.name
        # On nobody's behalf, each concurrent check-out counts by itself, but what rests is taken up again.
        shared = bool(consumer) or product.installed
        mine = [
            one
            for one in self.seats.values()
            if one.key == key and (one.takes_seats if shared else one.state == pb.ALLOCATION_STATE_QUARANTINED)
        ]
        seats = mine[0] if mine else None
        before = seats.quantity if seats else 0
        if seats is not None and seats.state == pb.ALLOCATION_STATE_REVOKED:
            raise Refusal("REVOKED", "An admin ended this allocation.")
        after = need if seats is None else max([need, *(size for other, size in seats.uses.items() if other != use)])
        if after - before > self.available(name):
            return None
        if seats is None:
            sequence = next(self.sequence)
            seats = Seats(
                name=f"{self.pool}/allocations/a{sequence:06d}",
                product=name,
                node=session.node,
                key=key,
                request=request,
                kind=pb.ALLOCATION_KIND_INSTALLED if product.installed else pb.ALLOCATION_KIND_LEASED,
                allocated_at=self.now,
                fence=sequence,
            )
            self.seats[seats.name] = seats
        seats.resumed = seats.state == pb.ALLOCATION_STATE_QUARANTINED
        seats.state = pb.ALLOCATION_STATE_PROVISIONAL if provisional else pb.ALLOCATION_STATE_ACTIVE
        seats.uses[use] = need
        if product.installed:
            session.installed.add(seats.name)
        return seats

    def granted(self, session: Session, seats: Seats) -> pb.Granted:
        """A grant as the session sees it."""
        granted = pb.Granted(
            allocation=self.allocation(seats),
            heartbeat_interval=duration(self.heartbeat),
            fence=pb.Fence(epoch=1, sequence=seats.fence),
            quantity=seats.uses.get("", seats.uses.get(session.name, 0)),
            provisional=seats.state == pb.ALLOCATION_STATE_PROVISIONAL,
            resumed=seats.resumed,
        )
        granted.remaining.CopyFrom(duration(max(0.0, session.expires_at - self.now)))
        if seats.kind == pb.ALLOCATION_KIND_LEASED:
            granted.expire_time.CopyFrom(stamp(session.expires_at))
        return granted

    def allocation(self, seats: Seats) -> pb.Allocation:
        """Seats as the protocol tells them."""
        told = pb.Allocation(
            name=seats.name,
            product=f"products/{seats.product}",
            kind=seats.kind,
            state=seats.state,
            quantity=seats.quantity,
            node=seats.node,
            consumer=seats.request.consumer,
            installation=seats.request.installation,
            user=seats.request.user,
            host=seats.request.host,
            allocate_time=stamp(seats.allocated_at),
            sessions=[name for name in seats.uses if name],
        )
        if seats.state == pb.ALLOCATION_STATE_QUARANTINED:
            told.quarantine_end_time.CopyFrom(stamp(seats.free_at))
        return told

    def denial(self, request: pb.CheckOutRequest, reason: str) -> Refusal:
        """Why there are no seats (CC-17)."""
        name = short(request.product)
        total = self.products[name].seats if name in self.products else 0
        quarantined = self.taken(name, pb.ALLOCATION_STATE_QUARANTINED)
        taken = self.taken(name)
        denial = errors_pb2.Denial(
            reason=errors_pb2.Reason.Value(f"REASON_{reason}"),
            pool=self.pool,
            product=f"products/{name}",
            needed=request.quantity or 1,
            counts=errors_pb2.SeatCounts(
                total=total,
                allocated_automatically=taken - quarantined,
                quarantined=quarantined,
                available=total - taken,
            ),
        )
        ends = [
            seats.free_at
            for seats in self.seats.values()
            if seats.product == name and seats.state == pb.ALLOCATION_STATE_QUARANTINED
        ]
        if ends:
            denial.next_free_time.CopyFrom(stamp(min(ends)))
        return Refusal(reason, f"{name}: {reason.lower().replace('_', ' ')}.", denial=denial)

    def check_in(self, session: Session, request: pb.CheckInRequest) -> pb.CheckInResponse:
        """Answers CheckIn."""
        seats = self.seats.get(request.allocation)
        if seats is None or seats.node != session.node:
            raise Refusal("NOT_FOUND", "There is no such allocation.")
        self.end_use(seats, "" if "" in seats.uses else session.name)
        self.serve_waiters()
        return pb.CheckInResponse(allocation=self.allocation(seats))

    def end_use(self, seats: Seats, use: str) -> None:
        """Ends the use of one session, and with the last the allocation."""
        if seats.uses.pop(use, None) is None or seats.uses:
            return
        size = seats.held or max(1, seats.request.quantity)
        if seats.state == pb.ALLOCATION_STATE_ACTIVE and (seats.allocated_at + self.minimum_allocation > self.now):
            seats.state, seats.held = pb.ALLOCATION_STATE_QUARANTINED, size
            seats.free_at = seats.allocated_at + self.minimum_allocation
        else:
            seats.state, seats.held = pb.ALLOCATION_STATE_ENDED, 0

    def acknowledge(self, session: Session, request: pb.AcknowledgeRequest) -> pb.AcknowledgeResponse:
        """Answers Acknowledge."""
        seats = self.seats.get(request.allocation)
        if seats is None:
            raise Refusal("NOT_FOUND", "There is no such allocation.")
        if seats.state == pb.ALLOCATION_STATE_PROVISIONAL:
            seats.state = pb.ALLOCATION_STATE_ACTIVE
        elif request.allocation in session.notices or session.node in self.ended_nodes:
            session.notices.pop(request.allocation, None)
            self.end_use(seats, session.name)
            self.serve_waiters()
        return pb.AcknowledgeResponse(allocation=self.allocation(seats))

    def beat(self, session: Session, request: pb.HeartbeatRequest) -> pb.HeartbeatResponse:
        """Answers Heartbeat."""
        session.expires_at = max(session.expires_at, self.now + self.lease)
        if request.HasField("known"):
            self.reconcile(session, request.known)
        mine = {
            seats.name: seats.uses.get(session.name, seats.uses.get("", 0))
            for seats in self.seats.values()
            if session.name in seats.uses or ("" in seats.uses and seats.name in session.installed)
            if seats.state != pb.ALLOCATION_STATE_PROVISIONAL
        }
        digest = sum(weight(name, size) for name, size in mine.items()) % (1 << 64)
        same = (request.allocation_count, request.digest) == (len(mine), digest)
        answer = pb.HeartbeatResponse(
            expire_time=stamp(session.expires_at),
            remaining=duration(session.expires_at - self.now),
            continuation=duration(CONTINUATION),
            heartbeat_interval=duration(self.heartbeat),
            reconcile=0 if same or request.HasField("known") else next(self.sequence),
        )
        answer.notices.extend(session.notices.values())
        return answer

    def reconcile(self, session: Session, known: pb.KnownAllocations) -> None:
        """Checks in what the client does not know (CC-29)."""
        names, pending = {one.allocation for one in known.allocations}, set(known.pending_request_ids)
        session.installed |= {name for name in names if name in self.seats and "" in self.seats[name].uses}
        for seats in self.seats.values():
            if (
                session.name in seats.uses
                and seats.fence < known.as_of
                and seats.name not in names
                and seats.request.request_id not in pending
            ):
                self.end_use(seats, session.name)
        session.notices = {
            name: notice
            for name, notice in session.notices.items()
            if notice.reason == errors_pb2.REASON_REVOKED or name in names
        }
        for name in names:
            seats_or_none = self.seats.get(name)
            if seats_or_none is None or not {session.name, ""} & set(seats_or_none.uses):
                session.notices[name] = pb.AllocationNotice(
                    allocation=name,
                    reason=errors_pb2.REASON_NOT_FOUND,
                    message="The allocation is over.",
                )
        self.serve_waiters()

    def close_session(self, session: Session) -> pb.CloseSessionResponse:
        """Answers CloseSession."""
        self.end_session(session)
        self.serve_waiters()
        return pb.CloseSessionResponse()

    def end_session(self, session: Session) -> None:
        """Ends a session and its uses."""
        session.open = False
        for seats in self.seats.values():
            self.end_use(seats, session.name)
        for waiter in [one for one in self.waiters if one.session is session]:
            self.waiters.remove(waiter)
            waiter.answer(refusal=Refusal("LEASE_EXPIRED", "The session has ended."))

    def list_allocations(self, session: Session) -> pb.ListAllocationsResponse:
        """Answers ListAllocations."""
        mine = [
            self.allocation(seats) for seats in self.seats.values() if seats.node == session.node and seats.takes_seats
        ]
        return pb.ListAllocationsResponse(allocations=mine)

    def cancel_wait(self, session: Session, request_id: str) -> pb.CancelWaitResponse:
        """Gives up a waiting; a grant that crossed it is taken back."""
        for waiter in list(self.waiters):
            if (waiter.session.node, waiter.request.request_id) == (session.node, request_id):
                self.waiters.remove(waiter)
                waiter.answer(refusal=Refusal("WAIT_EXPIRED", "The waiting was given up."))
        for seats in self.seats.values():
            mine = (seats.node, seats.request.request_id) == (session.node, request_id)
            if mine and seats.state == pb.ALLOCATION_STATE_PROVISIONAL:
                self.end_use(seats, session.name)
        self.serve_waiters()
        return pb.CancelWaitResponse()

    def serve_waiters(self) -> None:
        """Gives what is free to those who wait, first come, first served."""
        blocked: set[str] = set()
        place: Counter[str] = Counter()
        for waiter in list(self.waiters):
            product = short(waiter.request.product)
            seats = None if product in blocked else self.take(waiter.session, waiter.request, provisional=True)
            if seats is None:
                # Strict: nobody passes one that waits before it (CC-18).
                blocked.add(product)
                place[product] += 1
                waiter.tell(place[product])
                continue
            self.waiters.remove(waiter)
            digest = hashlib.sha256(waiter.request.SerializeToString(deterministic=True)).digest()
            key = (waiter.session.node, waiter.request.request_id)
            self.outcomes[key] = (digest, seats.name)
            waiter.answer(granted=self.granted(waiter.session, seats))

    def take_failure(self, key: str) -> None:
        """Raises what `fail_next` ordered for this call."""
        waiting = self.failures.get(key)
        if waiting:
            raise waiting.popleft()


def short(product: str) -> str:
    """A product's id without its collection."""
    return product.removeprefix("products/")


def stamp(instant: float) -> Timestamp:
    """An instant as the protocol writes it."""
    nanos = round(instant * 1e9)
    return Timestamp(seconds=nanos // 10**9, nanos=nanos % 10**9)
