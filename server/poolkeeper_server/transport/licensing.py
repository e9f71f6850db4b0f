"""The check-out protocol: what nodes call."""

import asyncio
import contextlib
from collections.abc import Mapping

from poolkeeper.v1 import licensing_pb2 as pb
from poolkeeper_server.domain import commands
from poolkeeper_server.domain.refusal import Refusal, draining, invalid
from poolkeeper_server.services.contract import Drained, EnrolmentAttempt, Leasing, Push, Served, SessionAttempt
from poolkeeper_server.transport import names
from poolkeeper_server.transport.exchange import (
    Exchange,
    fill_acknowledge,
    fill_check_in,
    fill_close,
    is_large,
)
from poolkeeper_server.transport.handlers import Access, Binding, MessageStream, NodeCall, OpenCall
from poolkeeper_server.transport.stream import Conversation
from poolkeeper_server.transport.texts import text
from poolkeeper_server.transport.times import duration

_ACCESS: Mapping[str, Access] = {
    "GetServerInfo": Access.NONE,
    "Enrol": Access.NONE,
    "GetChallenge": Access.NONE,
    "OpenSession": Access.NONE,
    "CheckOut": Access.NODE,
    "BatchCheckOut": Access.NODE,
    "CheckIn": Access.LEAVING,
    "Heartbeat": Access.NODE,
    "BatchHeartbeat": Access.NODE,
    "Acknowledge": Access.LEAVING,
    "CloseSession": Access.LEAVING,
    "Connect": Access.NODE,
    "ListAllocations": Access.NODE,
}

#: Bytes of the largest message of what needs no more, a multiple of the largest that is in order. Strangers' messages
#: have a bound of their own; batches, heartbeats with all that a session knows, and streams have gRPC's.
_SIZES: Mapping[str, int] = {
    "CheckOut": 64 * 1024,
    "CheckIn": 4 * 1024,
    "Acknowledge": 4 * 1024,
    "CloseSession": 4 * 1024,
    "ListAllocations": 16 * 1024,
}


SERVICE = pb.DESCRIPTOR.services_by_name["LicensingService"]


def licensing_binding(leasing: Leasing) -> Binding:
    """The protocol's service, ready to be served."""
    return Binding(SERVICE, LicensingServicer(leasing), _ACCESS, crowded=True, sizes=_SIZES)


class LicensingServicer:
    """Each method: the request as a command, the command to the service, its answer as a message."""

    def __init__(self, leasing: Leasing) -> None:
        self._leasing = leasing

    async def GetServerInfo(self, request: pb.GetServerInfoRequest, call: OpenCall) -> pb.GetServerInfoResponse:
        """What a client must know before it trusts this installation."""
        del request, call
        info = self._leasing.server_info()
        return pb.GetServerInfoResponse(
            version=info.version,
            ca_certificate_pem=info.authority,
            signing_keys=[pb.SigningKey(key_id=key.key_id, public_key=key.public_key) for key in info.signing_keys],
            outcome_retention=duration(info.retention),
        )

    async def Enrol(self, request: pb.EnrolRequest, call: OpenCall) -> pb.EnrolResponse:
        """Redeems a code. What is malformed counts as a failed attempt, so nothing is refused before it counts."""
        named = names.find_pool(request.pool)
        enrolled = await self._leasing.enrol(
            EnrolmentAttempt(
                source=call.source,
                estate_id=named.estate,
                pool_id=named.pool,
                pool=request.pool,
                code=request.code,
                public_key=request.public_key,
                proof=request.proof,
            )
        )
        return pb.EnrolResponse(
            node=names.node_name(enrolled.estate_id, enrolled.node_id),
            pool=names.pool_name(enrolled.estate_id, enrolled.pool_id),
            domain=enrolled.domain,
            rolling_secret=enrolled.rolling_secret,
        )

    async def GetChallenge(self, request: pb.GetChallengeRequest, call: OpenCall) -> pb.GetChallengeResponse:
        """A challenge for a node to sign."""
        del call
        node = names.read_node(request.node, "node")
        return pb.GetChallengeResponse(challenge=self._leasing.challenge(node.estate, node.id))

    async def OpenSession(self, request: pb.OpenSessionRequest, call: OpenCall) -> pb.OpenSessionResponse:
        """Opens the session that belongs to a signed challenge."""
        node = names.read_node(request.node, "node")
        opened = await self._leasing.open_session(
            SessionAttempt(
                estate_id=node.estate,
                node_id=node.id,
                domain=_signed(request.domain),
                challenge=request.challenge,
                signature=request.signature,
                rolling_secret=request.rolling_secret,
                source=call.source,
                host=text(request.host, "host"),
            )
        )
        who = opened.identity
        return pb.OpenSessionResponse(
            session=names.session_name(who.estate, who.node, who.session),
            session_token=opened.token,
            pool=names.pool_name(who.estate, who.pool),
            lease_duration=duration(opened.lease_duration),
            heartbeat_interval=duration(opened.heartbeat_interval),
            rolling_secret=opened.rolling_secret,
        )

    async def CheckOut(self, request: pb.CheckOutRequest, call: NodeCall) -> pb.CheckOutResponse:
        """Takes seats; with a wait, blocks until there are some or the wait is over."""
        exchange = Exchange(self._leasing, call.identity)
        command = exchange.check_out(request)
        if command.wait:
            answer = await self._in_turn(exchange, command, call)
        else:
            answer = await self._leasing.submit(command, within=call.time_remaining())
        message = pb.CheckOutResponse()
        exchange.fill_check_out(message, answer, want_grant=request.want_grant)
        return message

    async def BatchCheckOut(self, request: pb.BatchCheckOutRequest, call: NodeCall) -> pb.BatchCheckOutResponse:
        """Takes seats for each request of the batch by itself."""
        exchange = Exchange(self._leasing, call.identity)
        return await exchange.batch_check_out(request, within=call.time_remaining())

    async def CheckIn(self, request: pb.CheckInRequest, call: NodeCall) -> pb.CheckInResponse:
        """Gives an allocation back."""
        command = Exchange(self._leasing, call.identity).check_in(request)
        message = pb.CheckInResponse()
        fill_check_in(message, await self._leasing.submit(command))
        return message

    async def Heartbeat(self, request: pb.HeartbeatRequest, call: NodeCall) -> pb.HeartbeatResponse:
        """Renews the session."""
        exchange = Exchange(self._leasing, call.identity)
        message = pb.HeartbeatResponse()
        command = await exchange.reconciling(request) if is_large(request) else exchange.heartbeat(request)
        exchange.fill_heartbeat(message, await self._leasing.submit(command))
        return message

    async def BatchHeartbeat(self, request: pb.BatchHeartbeatRequest, call: NodeCall) -> pb.BatchHeartbeatResponse:
        """Renews each session of the batch by itself."""
        return await Exchange(self._leasing, call.identity).batch_heartbeat(request)

    async def Acknowledge(self, request: pb.AcknowledgeRequest, call: NodeCall) -> pb.AcknowledgeResponse:
        """Accepts a waiter's grant, or lets go of a revoked allocation."""
        command = Exchange(self._leasing, call.identity).acknowledge(request)
        message = pb.AcknowledgeResponse()
        fill_acknowledge(message, await self._leasing.submit(command))
        return message

    async def CloseSession(self, request: pb.CloseSessionRequest, call: NodeCall) -> pb.CloseSessionResponse:
        """Ends the session."""
        message = pb.CloseSessionResponse()
        fill_close(message, await self._leasing.submit(Exchange(self._leasing, call.identity).close_session(request)))
        return message

    async def ListAllocations(self, request: pb.ListAllocationsRequest, call: NodeCall) -> pb.ListAllocationsResponse:
        """The allocations of the calling node."""
        return await Exchange(self._leasing, call.identity).allocations(request)

    async def Connect(self, stream: MessageStream[pb.ConnectRequest, pb.ConnectResponse], call: NodeCall) -> None:
        """All of the above on one stream."""
        end = self._leasing.begin_stream(call.identity)
        try:
            await Conversation(self._leasing, stream, call.identity).run()
        finally:
            end()

    async def _in_turn(self, exchange: Exchange, command: commands.CheckOut, call: NodeCall) -> commands.Answer:
        turn: asyncio.Future[commands.Answer] = asyncio.get_running_loop().create_future()

        def listen(push: Push) -> None:
            if turn.done():
                return
            if isinstance(push, Drained):
                turn.set_result(draining())
            elif (
                isinstance(push, Served)
                and push.request_id == command.request_id
                and not isinstance(push.answer, commands.Waiting)
            ):
                turn.set_result(push.answer)

        # From before the command is sent: its turn may come in the very batch that queues it.
        unfollow = self._leasing.follow(call.identity, listen)
        try:
            answer = await self._leasing.submit(command, within=call.time_remaining())
            return await turn if isinstance(answer, commands.Waiting) else answer
        except asyncio.CancelledError:
            # Nobody is there to take the seat any more.
            with contextlib.suppress(Refusal):
                self._leasing.submit(exchange.cancel_wait(command.request_id))
            raise
        finally:
            unfollow()


def _signed(domain: str) -> str:
    """A domain, which stands in what was signed, and so cannot be put into its canonical form here."""
    if text(domain, "domain") != domain:
        raise invalid("domain", "domain is not in Unicode's form NFC.", hint="Take it as the enrolment gave it.")
    return domain
