"""The check-out protocol's messages: requests as commands, answers as messages. Unary calls and streams share it."""

from asyncio import Future, get_running_loop
from collections.abc import Iterable, Sequence
from typing import TypeVar

from poolkeeper.v1 import licensing_pb2 as pb
from poolkeeper_server.domain import commands
from poolkeeper_server.domain.digest import signed
from poolkeeper_server.domain.receipts import GrantReceipt
from poolkeeper_server.domain.records import Allocation, AllocationState, CheckInReason, Kind
from poolkeeper_server.domain.refusal import Refusal, invalid
from poolkeeper_server.services.contract import Leasing
from poolkeeper_server.services.tokens import SessionIdentity
from poolkeeper_server.transport import conversion, names
from poolkeeper_server.transport.errors import reason_number
from poolkeeper_server.transport.fields import count_of, digest_of, page_of, units_of
from poolkeeper_server.transport.handlers import refused
from poolkeeper_server.transport.texts import text
from poolkeeper_server.transport.times import read_duration, set_instant, set_span, timestamp

T = TypeVar("T")

LARGEST_BATCH = 1_000
# A batch of a thousand denials must still fit into one message.
_MOST_DETAILS_IN_BATCH = 1_500
_MOST_SEATS = 1_000_000
_LONGEST_WAIT = 86_400_000_000
_MOST_KNOWN = 100_000
_REASONS = {
    number: CheckInReason(name.removeprefix("CHECK_IN_REASON_")) for name, number in pb.CheckInReason.items() if number
} | {pb.CHECK_IN_REASON_UNSPECIFIED: CheckInReason.ENDED}


class Exchange:
    """One session's side of the protocol."""

    def __init__(self, leasing: Leasing, identity: SessionIdentity) -> None:
        self._leasing = leasing
        self._identity = identity

    def check_out(self, request: pb.CheckOutRequest, *, may_wait: bool = True) -> commands.CheckOut:
        """Takes seats. Raises Refusal, as all of these do, for a field that is not permitted."""
        who = self._identity
        size = request.WhichOneof("size")
        consumer = text(request.consumer, "consumer")
        return commands.CheckOut(
            estate_id=who.estate,
            caller=who.node,
            request_id=names.request_id(request.request_id, required=True),
            digest=digest_of(request),
            session_id=who.session,
            product_id=names.read_product(request.product, "product"),
            consumer=consumer,
            pseudonym=self._leasing.pseudonym(who.estate, who.node, consumer) if consumer else "",
            installation=text(request.installation, "installation"),
            user=text(request.user, "user"),
            host=text(request.host, "host"),
            quantity=count_of(request.quantity, "quantity", most=_MOST_SEATS) if size == "quantity" else 0,
            demand=units_of(request.demand.units, "demand", least=0) if size == "demand" else (),
            wait=_wait(request, may_wait=may_wait) if request.HasField("wait") else 0,
        )

    def batch(self, request: pb.BatchCheckOutRequest) -> list[commands.CheckOut | Refusal]:
        """Each check-out of a batch, or why it is refused already."""
        count_of(len(request.requests), "requests", most=LARGEST_BATCH)
        found: list[commands.CheckOut | Refusal] = []
        for one in request.requests:
            try:
                found.append(self.check_out(one, may_wait=False))
            except Refusal as refusal:
                found.append(refusal)
        return found

    def check_in(self, request: pb.CheckInRequest) -> commands.CheckIn:
        """Gives an allocation back."""
        allocation = names.read_allocation(request.allocation, "allocation")
        self._own(allocation.estate)
        reason = _REASONS.get(request.reason)
        if reason is None:
            raise invalid("reason", f"reason {request.reason} is not known.", hint="Update the daemon.")
        return commands.CheckIn(
            estate_id=self._identity.estate,
            caller=self._identity.node,
            request_id=names.request_id(request.request_id, required=True),
            digest=digest_of(request),
            session_id=self._identity.session,
            allocation_id=allocation.id,
            reason=reason,
        )

    def heartbeat(self, request: pb.HeartbeatRequest) -> commands.Heartbeat:
        """Renews the session."""
        return commands.Heartbeat(
            estate_id=self._identity.estate,
            node_id=self._identity.node,
            session_id=self._identity.session,
            count=request.allocation_count,
            digest=signed(request.digest),
            known=self._known(request.known) if request.HasField("known") else None,
            epoch=request.epoch,
        )

    def _known(self, told: pb.KnownAllocations) -> commands.Known:
        """All that the client knows."""
        if len(told.allocations) + len(told.pending_request_ids) > _MOST_KNOWN:
            raise invalid("known", "known has too many names.", hint=f"It may have {_MOST_KNOWN:,}.")
        sizes = {one.allocation: max(0, one.quantity) for one in told.allocations}
        names.check_own_allocations(sizes, self._identity.estate, "known.allocations")
        return commands.Known(
            as_of=told.as_of,
            allocations=sizes,
            pending=frozenset(names.request_id(one, required=True) for one in told.pending_request_ids),
            receipts=self._receipts(told.proofs),
        )

    def batch_heartbeat(self, request: pb.BatchHeartbeatRequest) -> list["Renewal | Refusal"]:
        """Each renewal of a batch, with the side of its own session, or why it is refused already."""
        count_of(len(request.heartbeats), "heartbeats", most=LARGEST_BATCH)
        found: list[Renewal | Refusal] = []
        for one in request.heartbeats:
            try:
                who = self._leasing.session_of(one.session_token)
                if (who.estate, who.node) != (self._identity.estate, self._identity.node):
                    raise invalid("session_token", "The session is not of the calling node.")
                exchange = Exchange(self._leasing, who)
                found.append((exchange, exchange.heartbeat(one.heartbeat)))
            except Refusal as refusal:
                found.append(refusal)
        return found

    def _receipts(self, proofs: Iterable[pb.Proof]) -> tuple[GrantReceipt, ...]:
        """What is proven of the caller's own; what proves nothing is left out, and told as not known."""
        shown = [(proof.session_receipt, tuple(proof.receipts)) for proof in proofs]
        if sum(len(receipts) for _, receipts in shown) > _MOST_KNOWN:
            raise invalid("known.proofs", "proofs have too many receipts.", hint=f"They may have {_MOST_KNOWN:,}.")
        own = (self._identity.estate, self._identity.node)
        return tuple(
            receipt
            for proof in shown
            for receipt in self._leasing.proven(*proof)
            if (receipt.estate_id, receipt.node_id) == own
        )

    def acknowledge(self, request: pb.AcknowledgeRequest) -> commands.Acknowledge:
        """Accepts a waiter's grant, or lets go of a revoked allocation."""
        allocation = names.read_allocation(request.allocation, "allocation")
        self._own(allocation.estate)
        return commands.Acknowledge(
            estate_id=self._identity.estate,
            node_id=self._identity.node,
            session_id=self._identity.session,
            allocation_id=allocation.id,
            fence=request.fence.sequence,
        )

    def close_session(self, request: pb.CloseSessionRequest) -> commands.CloseSession:
        """Ends the session."""
        return commands.CloseSession(
            estate_id=self._identity.estate,
            node_id=self._identity.node,
            session_id=self._identity.session,
            told=request.HasField("allocation_count"),
            count=request.allocation_count,
            digest=signed(request.digest),
            known=self._known(request.known) if request.HasField("known") else None,
        )

    async def allocations(self, request: pb.ListAllocationsRequest) -> pb.ListAllocationsResponse:
        """The allocations of the node."""
        asked = page_of(request.page_size, request.page_token)
        page = await self._leasing.node_allocations(self._identity, asked)
        return pb.ListAllocationsResponse(
            allocations=[conversion.allocation_view(view) for view in page.items], next_page_token=page.next_token
        )

    def cancel_wait(self, request_id: str) -> commands.CancelWait:
        """Leaves the queue."""
        return commands.CancelWait(
            estate_id=self._identity.estate,
            session_id=self._identity.session,
            node_id=self._identity.node,
            request_id=names.request_id(request_id, required=True),
        )

    def fill_check_out(self, message: pb.CheckOutResponse, answer: commands.Answer, *, want_grant: bool) -> None:
        """Writes seats, or a place in the queue. Raises the answer, as all of these do, when it is a refusal."""
        if isinstance(answer, commands.Waiting):
            message.waiting.place = answer.place
            if answer.estimate is not None:
                set_instant(message.waiting.estimate_time, answer.estimate)
        else:
            self._fill_granted(message.granted, _expected(answer, commands.Granted), want_grant=want_grant)

    def _fill_granted(self, message: pb.Granted, answer: commands.Granted, *, want_grant: bool) -> None:
        found = answer.allocation
        conversion.fill_allocation(message.allocation, found, (answer.use,))
        set_span(message.heartbeat_interval, answer.heartbeat_interval)
        message.fence.epoch = answer.epoch
        message.fence.sequence = found.fence
        message.quantity = answer.use.quantity
        message.provisional = found.state is AllocationState.PROVISIONAL
        message.resumed = answer.resumed
        set_span(message.remaining, answer.remaining)
        until = None
        if found.kind is Kind.LEASED:
            until = self._leasing.civil_now() + answer.remaining
            set_instant(message.expire_time, until)
        message.receipt = self._leasing.grant_receipt(answer, until=until)
        if want_grant:
            message.grant = self._leasing.sign_grant(self._identity, answer)

    def batch_answer(
        self, request: pb.BatchCheckOutRequest, answers: Sequence[commands.Answer]
    ) -> pb.BatchCheckOutResponse:
        """Each result in its place."""
        message = pb.BatchCheckOutResponse()
        for one, answer in zip(request.requests, answers, strict=True):
            result = message.results.add()
            try:
                granted = _expected(answer, commands.Granted)
                self._fill_granted(result.granted, granted, want_grant=one.want_grant)
            except Refusal as refusal:
                result.error.CopyFrom(refused("BatchCheckOut", refusal, most=_MOST_DETAILS_IN_BATCH))
        return message

    def fill_heartbeat(self, message: pb.HeartbeatResponse, answer: commands.Answer) -> None:
        """Writes a renewed promise."""
        renewed = _expected(answer, commands.Renewed)
        until = self._leasing.civil_now() + renewed.remaining
        set_instant(message.expire_time, until)
        set_span(message.remaining, renewed.remaining)
        set_span(message.heartbeat_interval, renewed.heartbeat_interval)
        message.session_token = self._leasing.fresh_token(self._identity, renewed.session.expires_lease)
        message.reconcile = renewed.reconcile
        message.epoch = renewed.epoch
        if renewed.agrees and renewed.session.count:
            message.receipt = self._leasing.session_receipt(renewed, until=until)
        set_span(message.continuation, renewed.continuation)
        for name, quantity in renewed.resized:
            message.resized.add(allocation=name, quantity=quantity)
        for one in renewed.notices:
            message.notices.append(self.notice(one, epoch=renewed.epoch))

    def batch_heartbeat_answer(
        self, asked: Sequence["Renewal | Refusal"], answers: Sequence[commands.Answer]
    ) -> pb.BatchHeartbeatResponse:
        """Each result in its place."""
        message = pb.BatchHeartbeatResponse()
        for one, answer in zip(asked, answers, strict=True):
            result = message.results.add()
            try:
                if isinstance(one, Refusal):
                    raise one
                one[0].fill_heartbeat(result.renewed, answer)
            except Refusal as refusal:
                result.error.CopyFrom(refused("BatchHeartbeat", refusal, most=_MOST_DETAILS_IN_BATCH))
        return message

    def notice(self, found: commands.Notice, *, epoch: int) -> pb.AllocationNotice:
        """News of one allocation."""
        message = pb.AllocationNotice(
            allocation=names.allocation_name(self._identity.estate, found.pool_id, found.allocation_id)
            if found.allocation_id
            else "",
            reason=reason_number(found.refusal.reason),
            message=found.refusal.message,
            fence=pb.Fence(epoch=epoch, sequence=found.fence),
        )
        if found.refusal.at is not None:
            message.time.CopyFrom(timestamp(found.refusal.at))
        return message

    def _own(self, estate: str) -> None:
        if estate != self._identity.estate:
            # Whether it exists there is nobody's business here.
            raise invalid("allocation", "The allocation is not of this node's estate.")


Renewal = tuple[Exchange, commands.Heartbeat]


def renewed(leasing: Leasing, asked: Renewal | Refusal) -> Future[commands.Answer]:
    """The future answer of one heartbeat of a batch, which may be refused already."""
    return submitted(leasing, asked if isinstance(asked, Refusal) else asked[1])


def submitted(
    leasing: Leasing, asked: commands.CheckOut | commands.Heartbeat | Refusal, within: float | None = None
) -> Future[commands.Answer]:
    """The future answer of one command of a batch, which may be refused already."""
    try:
        if not isinstance(asked, Refusal):
            return leasing.submit(asked, within=within)
    except Refusal as refusal:
        asked = refusal
    done: Future[commands.Answer] = get_running_loop().create_future()
    done.set_result(asked)
    return done


def fill_check_in(message: pb.CheckInResponse, answer: commands.Answer) -> None:
    """Writes what became of the allocation."""
    conversion.fill_allocation(message.allocation, _expected(answer, Allocation))


def fill_acknowledge(message: pb.AcknowledgeResponse, answer: commands.Answer) -> None:
    """Writes what became of the allocation."""
    conversion.fill_allocation(message.allocation, _expected(answer, Allocation))


def fill_close(message: pb.CloseSessionResponse, answer: commands.Answer) -> None:
    """That the session is over, which needs no words, or what has to be told first."""
    message.SetInParent()
    message.reconcile = _expected(answer, commands.SessionClosed).reconcile


def fill_cancel(message: pb.CancelWaitResponse, answer: commands.Answer) -> None:
    """That nobody waits any more, which needs no words."""
    message.SetInParent()
    _expected(answer, type(None))


def _wait(request: pb.CheckOutRequest, *, may_wait: bool) -> int:
    wait = read_duration(request.wait, "wait")
    if wait > _LONGEST_WAIT:
        raise invalid("wait", "wait is longer than a day.", hint="It may be 24 hours at most.")
    if wait and not may_wait:
        raise invalid("wait", "A check-out in a batch cannot wait.", hint="Send those that wait by themselves.")
    return wait


def _expected(answer: object, kind: type[T]) -> T:
    if isinstance(answer, kind):
        return answer
    if isinstance(answer, Refusal):
        raise answer
    raise TypeError(f"{type(answer).__name__} came where {kind.__name__} belongs")
