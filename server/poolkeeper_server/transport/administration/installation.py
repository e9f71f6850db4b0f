"""Allocations as admins see them, clocks, tokens and alerts."""

from poolkeeper.v1 import admin_pb2 as pb
from poolkeeper.v1 import licensing_pb2
from poolkeeper_server.domain import commands
from poolkeeper_server.domain.records import AllocationState
from poolkeeper_server.domain.refusal import invalid, not_found
from poolkeeper_server.services.contract import AllocationView, TokenWish
from poolkeeper_server.transport import conversion, names
from poolkeeper_server.transport.administration.servicer import AdminServicer, caller, operator, origin, within
from poolkeeper_server.transport.fields import page_of
from poolkeeper_server.transport.handlers import AdminCall
from poolkeeper_server.transport.names import Child
from poolkeeper_server.transport.texts import text
from poolkeeper_server.transport.times import read_duration

_STATES = {licensing_pb2.AllocationState.Value(f"ALLOCATION_STATE_{state}"): state for state in AllocationState}
_LONGEST_TOKEN = 36_500 * 86_400_000_000


class AllocationServicer(AdminServicer):
    """Who holds what."""

    async def GetAllocation(self, request: pb.GetAllocationRequest, call: AdminCall) -> licensing_pb2.Allocation:
        """One allocation."""
        allocation = names.read_allocation(request.name, "name")
        within(call, allocation.estate)
        return conversion.allocation_view(await self._allocation(allocation))

    async def ListAllocations(
        self, request: pb.ListPoolAllocationsRequest, call: AdminCall
    ) -> pb.ListPoolAllocationsResponse:
        """The allocations of a pool or an estate."""
        parent = names.read_parent(request.parent, "parent")
        if request.state and request.state not in _STATES:
            raise invalid("state", "state is not one that is known.")
        page = await self._ask.allocations(
            within(call, parent.estate),
            parent.pool,
            page_of(request.page_size, request.page_token),
            state=_STATES.get(request.state),
        )
        return pb.ListPoolAllocationsResponse(
            allocations=[conversion.allocation_view(view) for view in page.items], next_page_token=page.next_token
        )

    async def ReleaseAllocation(
        self, request: pb.ReleaseAllocationRequest, call: AdminCall
    ) -> licensing_pb2.Allocation:
        """Takes an allocation back (CC-23)."""
        allocation = names.read_allocation(request.name, "name")
        within(call, allocation.estate)
        await self._allocation(allocation)
        await self._ask.apply(
            commands.ReleaseAllocation(
                **origin(call, request, request.request_id, estate=allocation.estate),
                allocation_id=allocation.id,
                reason=text(request.reason, "reason", required=True),
                no_quarantine=request.no_quarantine,
                force=request.force,
            )
        )
        return conversion.allocation_view(await self._allocation(allocation))

    async def _allocation(self, allocation: Child) -> AllocationView:
        view = await self._ask.allocation(allocation.estate, allocation.id)
        if view.allocation.pool_id != allocation.pool:
            # It was migrated, and has another name now.
            raise not_found(names.allocation_name(allocation.estate, allocation.pool, allocation.id))
        return view


class ClockServicer(AdminServicer):
    """Civil and lease time of the installation."""

    async def GetClock(self, request: pb.GetClockRequest, call: AdminCall) -> pb.Clock:
        """The clocks."""
        del request, call
        return conversion.clock(self._ask.clock())

    async def AcceptClock(self, request: pb.AcceptClockRequest, call: AdminCall) -> pb.Clock:
        """Takes the host's civil time for right (CC-27)."""
        operator(call)
        names.request_id(request.request_id)
        return conversion.clock(await self._ask.accept_clock(caller(call)))


class TokenServicer(AdminServicer):
    """Credentials of admins; only the operator hands them out."""

    async def CreateToken(self, request: pb.CreateTokenRequest, call: AdminCall) -> pb.CreateTokenResponse:
        """Makes a token; its text is in this answer and nowhere else."""
        operator(call)
        lifetime = read_duration(request.lifetime, "lifetime") if request.HasField("lifetime") else None
        if lifetime == 0:
            raise invalid("lifetime", "The token would be over at once.", hint="Leave lifetime out for no end.")
        if lifetime is not None and lifetime > _LONGEST_TOKEN:
            raise invalid("lifetime", "The lifetime is longer than 100 years.", hint="Leave lifetime out for no end.")
        issued = await self._ask.create_token(
            TokenWish(
                **origin(call, request, request.request_id),
                title=text(request.title, "title", required=True),
                scope=names.read_estate(request.estate, "estate") if request.estate else "",
                lifetime=lifetime,
            )
        )
        return pb.CreateTokenResponse(token=conversion.token(issued.token), secret=issued.text)

    async def ListTokens(self, request: pb.ListTokensRequest, call: AdminCall) -> pb.ListTokensResponse:
        """All tokens, without their texts."""
        operator(call)
        page = await self._ask.tokens(page_of(request.page_size, request.page_token))
        return pb.ListTokensResponse(
            tokens=[conversion.token(found) for found in page.items], next_page_token=page.next_token
        )

    async def RevokeToken(self, request: pb.RevokeTokenRequest, call: AdminCall) -> pb.Token:
        """Makes a token worthless."""
        operator(call)
        token = names.read_token(request.name, "name")
        await self._ask.apply(commands.RevokeToken(**origin(call, request, request.request_id), token_id=token))
        return conversion.token(await self._ask.token(token))


class AlertServicer(AdminServicer):
    """What the operator should know of."""

    async def ListAlerts(self, request: pb.ListAlertsRequest, call: AdminCall) -> pb.ListAlertsResponse:
        """All alerts, newest first."""
        operator(call)
        page = await self._ask.alerts(page_of(request.page_size, request.page_token))
        return pb.ListAlertsResponse(
            alerts=[conversion.alert(found) for found in page.items], next_page_token=page.next_token
        )
