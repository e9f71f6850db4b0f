"""The check-out protocol's messages: requests as commands, answers as messages. Unary calls and streams share it."""

from asyncio import Future, gather, get_running_loop, sleep
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TypeVar

from poolkeeper.v1 import licensing_pb2 as pb
from poolkeeper_server.domain import commands
from poolkeeper_server.domain.digest import signed
from poolkeeper_server.domain.receipts import GrantReceipt
from poolkeeper_server.domain.records import Allocation, AllocationState, CheckInReason, Kind
from poolkeeper_server.domain.refusal import Refusal, invalid
from poolkeeper_server.services.contract import Leasing
from poolkeeper_server.services.large import MOST_HEARTBEATS, SLICE
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
_MOST_KNOWN = 20_000
_MANY_NAMES = 1_000
_REASONS = {
    number: CheckInReason(name.removeprefix("CHECK_IN_REASON_")) for name, number in pb.CheckInReason.items() if number
} | {pb.CHECK_IN_REASON_UNSPECIFIED: CheckInReason.ENDED}


class Exchange:
    """One session's side of the protocol."""

    def __init__(self, leasing: Leasing, identity: SessionIdentity) -> None:
        self._leasing = leasing
        self._identity = identity
        self._sender = (identity.estate, identity.node)

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

    async def batch_check_out(
        self, request: pb.BatchCheckOutRequest, *, within: float | None = None
    ) -> pb.BatchCheckOutResponse:
        """Takes seats for each request of a batch by itself."""
        requests = request.requests
        count_of(len(requests), "requests", most=LARGEST_BATCH)
        with self._under_way(len(requests)):
            async with self._turn(len(requests)):
                futures = [
                    submitted(self._leasing, lambda one=one: self.check_out(one, may_wait=False), within)  # type: ignore[misc] # A default.
                    async for one in sliced(requests)
                ]
            answers = await gather(*futures)
            message = pb.BatchCheckOutResponse()
            async for one, answer in sliced(list(zip(requests, answers, strict=True))):
                result = message.results.add()
                try:
                    granted = _expected(answer, commands.Granted)
                    self._fill_granted(result.granted, granted, want_grant=one.want_grant)
                except Refusal as refusal:
                    result.error.CopyFrom(refused("BatchCheckOut", refusal, most=_MOST_DETAILS_IN_BATCH))
            return message

    def _under_way(self, size: int) -> AbstractContextManager[None]:
        return self._leasing.large.under_way(self._sender) if size > SLICE else nullcontext()

    def _turn(self, size: int) -> AbstractAsyncContextManager[None]:
        return self._leasing.large.turn(self._sender) if size > SLICE else nullcontext()

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
        """Renews the session; what is large must be looked at with `reconciling`."""
        return self._heartbeat(request, self._known(request.known) if request.HasField("known") else None)

    def _heartbeat(self, request: pb.HeartbeatRequest, known: commands.Known | None) -> commands.Heartbeat:
        return commands.Heartbeat(
            estate_id=self._identity.estate,
            node_id=self._identity.node,
            session_id=self._identity.session,
            count=request.allocation_count,
            digest=signed(request.digest),
            known=known,
            epoch=request.epoch,
        )

    def _known(self, told: pb.KnownAllocations, receipts: tuple[GrantReceipt, ...] = ()) -> commands.Known:
        """All that the client knows."""
        if len(told.allocations) + len(told.pending_request_ids) > _MOST_KNOWN:
            raise invalid("known", "known has too many names.", hint=f"It may have {_MOST_KNOWN:,}.")
        sizes = {one.allocation: max(0, one.quantity) for one in told.allocations}
        names.check_own_allocations(sizes, self._identity.estate, "known.allocations")
        return commands.Known(
            as_of=told.as_of,
            allocations=sizes,
            pending=frozenset(names.request_id(one, required=True) for one in told.pending_request_ids),
            receipts=receipts,
        )

    async def reconciling(self, request: pb.HeartbeatRequest) -> commands.Heartbeat:
        """Renews a session that accounts for thousands of allocations, or proves any."""
        told = request.known
        size = len(told.allocations) + len(told.pending_request_ids)
        shown = sum(len(proof.receipts) for proof in told.proofs)
        if shown > _MOST_KNOWN:
            raise invalid("known.proofs", "proofs have too many receipts.", hint=f"They may have {_MOST_KNOWN:,}.")
        # Where nothing can be proven, no receipt is looked at, and its client is answered like one that has none.
        quiet = bool(told.proofs) and await self._leasing.is_quiet()
        large = self._leasing.large
        many = size + shown > _MANY_NAMES
        with large.under_way(self._sender, most=MOST_HEARTBEATS) if many else nullcontext():
            async with large.turn(self._sender):
                receipts = await self._receipts(told.proofs) if quiet else ()
                command = self._heartbeat(request, self._known(told, receipts))
        return replace(command, epoch=0) if told.proofs and not quiet else command

    async def batch_heartbeat(self, request: pb.BatchHeartbeatRequest) -> pb.BatchHeartbeatResponse:
        """Renews each session of a batch by itself."""
        heartbeats = request.heartbeats
        count_of(len(heartbeats), "heartbeats", most=LARGEST_BATCH)
        with self._under_way(len(heartbeats)):
            asked = [await self._of_own_node(one) async for one in sliced(heartbeats)]
            futures = [renewed(self._leasing, one) for one in asked]
            answers = await gather(*futures)
            message = pb.BatchHeartbeatResponse()
            async for one, answer in sliced(list(zip(asked, answers, strict=True))):
                result = message.results.add()
                try:
                    if isinstance(one, Refusal):
                        raise one
                    one[0].fill_heartbeat(result.renewed, answer)
                except Refusal as refusal:
                    result.error.CopyFrom(refused("BatchHeartbeat", refusal, most=_MOST_DETAILS_IN_BATCH))
            return message

    async def _of_own_node(self, one: pb.SessionHeartbeat) -> "Renewal | Refusal":
        """The renewal of a session, with its own side of the protocol, or why it is refused already."""
        try:
            who = self._leasing.session_of(one.session_token)
            if (who.estate, who.node) != (self._identity.estate, self._identity.node):
                raise invalid("session_token", "The session is not of the calling node.")
            exchange = Exchange(self._leasing, who)
            if is_large(one.heartbeat):
                return exchange, await exchange.reconciling(one.heartbeat)
            return exchange, exchange.heartbeat(one.heartbeat)
        except Refusal as refusal:
            return refusal

    async def _receipts(self, proofs: Iterable[pb.Proof]) -> tuple[GrantReceipt, ...]:
        """What is proven of the caller's own; what proves nothing is left out, and told as not known."""
        own = (self._identity.estate, self._identity.node)
        found: list[GrantReceipt] = []
        for proof in proofs:
            proven = await self._leasing.proven(proof.session_receipt, proof.receipts)
            found += [receipt for receipt in proven if (receipt.estate_id, receipt.node_id) == own]
        return tuple(found)

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


def is_large(request: pb.HeartbeatRequest) -> bool:
    """Whether a heartbeat must be looked at by turns."""
    known = request.known
    return bool(known.proofs) or len(known.allocations) + len(known.pending_request_ids) > _MANY_NAMES


async def sliced(items: Sequence[T]) -> AsyncIterator[T]:
    """Each of many, with the loop let go of now and then."""
    for place, item in enumerate(items, 1):
        yield item
        if place % SLICE == 0:
            await sleep(0)


def renewed(leasing: Leasing, asked: Renewal | Refusal) -> Future[commands.Answer]:
    """The future answer of one heartbeat of a batch, which may be refused already."""
    return submitted(leasing, lambda: _renewal(asked))


def _renewal(asked: Renewal | Refusal) -> commands.Heartbeat:
    if isinstance(asked, Refusal):
        raise asked
    return asked[1]


def submitted(
    leasing: Leasing, make: Callable[[], commands.Command], within: float | None = None
) -> Future[commands.Answer]:
    """The future answer of one command of a batch, which may be refused already."""
    try:
        return leasing.submit(make(), within=within)
    except Refusal as refusal:
        done: Future[commands.Answer] = get_running_loop().create_future()
        done.set_result(refusal)
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
