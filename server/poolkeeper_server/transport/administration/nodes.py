"""Codes, the nodes that they enrol, and the consumers behind them."""

from poolkeeper.v1 import admin_pb2 as pb
from poolkeeper_server.domain import commands
from poolkeeper_server.domain.refusal import Reason, Refusal, invalid
from poolkeeper_server.services.contract import NodeView
from poolkeeper_server.transport import conversion, names
from poolkeeper_server.transport.administration.servicer import AdminServicer, origin, reach, within
from poolkeeper_server.transport.fields import page_of
from poolkeeper_server.transport.handlers import AdminCall
from poolkeeper_server.transport.names import Child
from poolkeeper_server.transport.texts import argument, text
from poolkeeper_server.transport.times import read_duration

_MINUTE = 60_000_000
_LONGEST_CODE = 30 * 24 * 60 * _MINUTE


class CodeServicer(AdminServicer):
    """Authentication codes."""

    async def IssueCode(self, request: pb.IssueCodeRequest, call: AdminCall) -> pb.IssueCodeResponse:
        """Issues a code; its digits are in this answer and nowhere else (CC-2)."""
        pool = names.read_pool(request.parent, "parent")
        lifetime = read_duration(request.lifetime, "lifetime") if request.HasField("lifetime") else 0
        if request.HasField("lifetime") and not _MINUTE <= lifetime <= _LONGEST_CODE:
            raise invalid("lifetime", "The lifetime is too short or too long.", hint="It may be 1 minute to 30 days.")
        issued = await self._ask.issue_code(
            commands.IssueCode(
                **origin(call, request, request.request_id, estate=within(call, pool.estate)),
                pool_id=pool.pool,
                node_id=names.new_node_id(request.node_id, "node_id"),
                domain=argument(request.domain, "domain"),
                replace=request.replace,
                lifetime=lifetime,
                code_id="",
                digests=(),
            )
        )
        return pb.IssueCodeResponse(
            code=conversion.code(issued.code),
            digits=issued.digits,
            pin=issued.pin,
            risk=conversion.risk(await self._ask.risk(reach(call))),
        )

    async def ListCodes(self, request: pb.ListCodesRequest, call: AdminCall) -> pb.ListCodesResponse:
        """The codes of a pool or an estate."""
        parent = names.read_parent(request.parent, "parent")
        page = await self._ask.codes(
            within(call, parent.estate), parent.pool, page_of(request.page_size, request.page_token)
        )
        return pb.ListCodesResponse(
            codes=[conversion.code(view) for view in page.items],
            next_page_token=page.next_token,
            risk=conversion.risk(await self._ask.risk(reach(call))),
        )

    async def RevokeCode(self, request: pb.RevokeCodeRequest, call: AdminCall) -> pb.Code:
        """Makes a code worthless."""
        code = names.read_code(request.name, "name")
        await self._ask.apply(
            commands.RevokeCode(
                **origin(call, request, request.request_id, estate=within(call, code.estate)),
                pool_id=code.pool,
                code_id=code.id,
            )
        )
        return conversion.code(await self._ask.code(code.estate, code.id))


class NodeServicer(AdminServicer):
    """Enrolled servers and encoders."""

    async def GetNode(self, request: pb.GetNodeRequest, call: AdminCall) -> pb.Node:
        """One node."""
        return await self._node(_node_of(call, request.name))

    async def ListNodes(self, request: pb.ListNodesRequest, call: AdminCall) -> pb.ListNodesResponse:
        """The nodes of an estate, or those bound to a pool; or only those that wait."""
        parent = names.read_parent(request.parent, "parent")
        page = await self._ask.nodes(
            within(call, parent.estate),
            parent.pool,
            page_of(request.page_size, request.page_token),
            pending=request.pending,
        )
        return pb.ListNodesResponse(
            nodes=[conversion.node(view) for view in page.items], next_page_token=page.next_token
        )

    async def ApproveNode(self, request: pb.ApproveNodeRequest, call: AdminCall) -> pb.Node:
        """Enrols a node that waits, or lets one machine of a copied identity go on."""
        node = _node_of(call, request.name)
        owner, session = names.read_session(request.session, "session") if request.session else (node, "")
        if owner != node:
            raise invalid("session", "This session is not one of the node's.", hint="The node shows its own ones.")
        await self._ask.apply(
            commands.ApproveNode(
                **origin(call, request, request.request_id, estate=node.estate),
                node_id=node.id,
                fingerprint=text(request.fingerprint, "fingerprint"),
                session_id=session,
            )
        )
        return await self._node(node)

    async def RejectNode(self, request: pb.RejectNodeRequest, call: AdminCall) -> pb.Node:
        """Turns a waiting key down, or all that wait for the name."""
        node = _node_of(call, request.name)
        await self._ask.apply(
            commands.RejectNode(
                **origin(call, request, request.request_id, estate=node.estate),
                node_id=node.id,
                fingerprint=text(request.fingerprint, "fingerprint"),
            )
        )
        try:
            return await self._node(node)
        except Refusal as refusal:
            if refusal.reason is not Reason.NOT_FOUND:
                raise
            # Of an enrolment that was turned down nothing is kept.
            return conversion.node(_rejected(node))

    async def RevokeNode(self, request: pb.RevokeNodeRequest, call: AdminCall) -> pb.Node:
        """Ends a node's credentials."""
        node = _node_of(call, request.name)
        await self._ask.apply(
            commands.RevokeNode(
                **origin(call, request, request.request_id, estate=node.estate),
                node_id=node.id,
                reason=text(request.reason, "reason"),
                force=request.force,
            )
        )
        return await self._node(node)

    async def MigrateNode(self, request: pb.MigrateNodeRequest, call: AdminCall) -> pb.MigrateNodeResponse:
        """Moves a node's installed allocations to the pool that it is bound to now."""
        node = _node_of(call, request.name)
        await self._ask.apply(
            commands.MigrateNode(**origin(call, request, request.request_id, estate=node.estate), node_id=node.id)
        )
        installed = await self._ask.node_installed(node.estate, node.id)
        return pb.MigrateNodeResponse(allocations=[conversion.allocation_view(view) for view in installed])

    async def _node(self, node: Child) -> pb.Node:
        return conversion.node(await self._ask.node(node.estate, node.id))


class ConsumerServicer(AdminServicer):
    """Consumers that an admin registered."""

    async def CreateConsumer(self, request: pb.CreateConsumerRequest, call: AdminCall) -> pb.Consumer:
        """Registers a consumer."""
        estate = within(call, names.read_estate(request.parent, "parent"))
        consumer = argument(request.consumer, "consumer", required=True)
        if "/" in consumer:
            raise invalid("consumer", "consumer holds a slash.", hint="It becomes part of a name; leave slashes out.")
        await self._ask.apply(
            commands.AddConsumer(
                **origin(call, request, request.request_id, estate=estate),
                consumer=consumer,
                user=text(request.user, "user"),
                host=text(request.host, "host"),
            )
        )
        return conversion.consumer(await self._ask.consumer(estate, consumer))

    async def GetConsumer(self, request: pb.GetConsumerRequest, call: AdminCall) -> pb.Consumer:
        """One registered consumer."""
        found = names.read_consumer(request.name, "name")
        return conversion.consumer(await self._ask.consumer(within(call, found.estate), found.id))

    async def ListConsumers(self, request: pb.ListConsumersRequest, call: AdminCall) -> pb.ListConsumersResponse:
        """An estate's registered consumers."""
        estate = within(call, names.read_estate(request.parent, "parent"))
        page = await self._ask.consumers(estate, page_of(request.page_size, request.page_token))
        return pb.ListConsumersResponse(
            consumers=[conversion.consumer(found) for found in page.items], next_page_token=page.next_token
        )

    async def DeleteConsumer(self, request: pb.DeleteConsumerRequest, call: AdminCall) -> pb.DeleteConsumerResponse:
        """Takes a consumer off the register."""
        found = names.read_consumer(request.name, "name")
        await self._ask.apply(
            commands.RemoveConsumer(
                **origin(call, request, request.request_id, estate=within(call, found.estate)), consumer=found.id
            )
        )
        return pb.DeleteConsumerResponse()


def _node_of(call: AdminCall, name: str) -> Child:
    node = names.read_node(name, "name")
    within(call, node.estate)
    return node


def _rejected(node: Child) -> NodeView:
    return NodeView(
        estate_id=node.estate,
        node_id=node.id,
        state="REJECTED",
        bindings=(),
        public_key=b"",
        enrolled_at=None,
        seen_at=None,
        seats=0,
    )
