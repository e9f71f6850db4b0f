"""`poolkeeper allocation`: who holds what."""

from typing import Annotated, Literal

from cyclopts import App, Parameter

from poolkeeper._request_id import new_request_id
from poolkeeper.cli import argument, name, phrase
from poolkeeper.cli.connection import ALL, HERE, Connection, Paging
from poolkeeper.cli.output import Column
from poolkeeper.v1 import admin_pb2 as pb
from poolkeeper.v1 import licensing_pb2
from poolkeeper.v1.admin_pb2_grpc import AllocationServiceStub
from poolkeeper.v1.licensing_pb2 import Allocation

app = App(name="allocation", default_parameter=Parameter(negative=(), show_default=False))

State = Literal["ACTIVE", "PROVISIONAL", "REVOKED", "QUARANTINED", "ENDED"]


def holder(allocation: Allocation) -> str:
    """On whose behalf the seats were taken, besides the node."""
    return allocation.consumer or allocation.installation or allocation.user or allocation.host


COLUMNS: tuple[Column[Allocation], ...] = (
    Column("Allocation", lambda allocation: name.short(allocation.name)),
    Column("Product", lambda allocation: name.short(allocation.product)),
    Column("Seats", lambda allocation: str(allocation.quantity), number=True),
    Column("State", lambda allocation: phrase.choice(allocation, "state")),
    Column("Node", lambda allocation: name.short(allocation.node)),
    Column("Holder", holder),
    Column("Since", lambda allocation: phrase.instant(allocation, "allocate_time")),
    Column("Quarantine until", lambda allocation: phrase.instant(allocation, "quarantine_end_time")),
)
DETAILS: tuple[Column[Allocation], ...] = (
    *(column for column in COLUMNS if column.heading != "Holder"),
    Column("Kind", lambda allocation: phrase.choice(allocation, "kind")),
    Column("Demand", lambda allocation: phrase.units(allocation.demand)),
    Column("Consumer", lambda allocation: allocation.consumer),
    Column("Installation", lambda allocation: allocation.installation),
    Column("User", lambda allocation: allocation.user),
    Column("Host", lambda allocation: allocation.host),
    Column(
        "Lines",
        lambda allocation: ", ".join(f"{line.quantity} of {name.short(line.licence)}" for line in allocation.lines),
    ),
    Column("Sessions", lambda allocation: phrase.names(allocation.sessions)),
    Column("Ended", lambda allocation: phrase.instant(allocation, "end_time")),
    Column("End reason", lambda allocation: allocation.end_reason),
)


@app.command(name="list")
def list_(
    parent: argument.EstateOrPool,
    /,
    *,
    state: Annotated[State | None, Parameter(help="Only these; without it, all that take seats.")] = None,
    paging: Paging = ALL,
    connection: Connection = HERE,
) -> None:
    """List the allocations of a pool or an estate."""
    above = name.estate_or_pool(parent)
    wanted = licensing_pb2.AllocationState.Value(f"ALLOCATION_STATE_{state or 'UNSPECIFIED'}")
    with connection.open() as admin:
        found = admin.pages(
            AllocationServiceStub(admin.channel).ListAllocations,
            lambda size, token: pb.ListPoolAllocationsRequest(
                parent=above, page_size=size, page_token=token, state=wanted
            ),
            lambda page: page.allocations,
            paging,
        )
    connection.printer.many(
        found.items,
        COLUMNS,
        field="allocations",
        next_page_token=found.next_page_token,
        empty="Nothing is allocated." if state is None else f"No allocation is {state}.",
    )


@app.command
def show(allocation: argument.Allocation, /, *, connection: Connection = HERE) -> None:
    """Show one allocation."""
    with connection.open() as admin:
        found = admin.call(
            AllocationServiceStub(admin.channel).GetAllocation,
            pb.GetAllocationRequest(name=name.allocation(allocation)),
        )
    connection.printer.one(found, DETAILS)


@app.command
def release(
    allocation: argument.Allocation,
    /,
    *,
    reason: argument.Reason,
    no_quarantine: Annotated[
        bool, Parameter(help="Skip the quarantine that the minimum allocation time asks for, or end it.")
    ] = False,
    force: Annotated[
        bool, Parameter(help="Free the seats at once, although a live holder may still believe that it has them.")
    ] = False,
    connection: Connection = HERE,
) -> None:
    """Take an allocation back; a live holder is told and lets go, or its last promise ends."""
    with connection.open() as admin:
        released = admin.call(
            AllocationServiceStub(admin.channel).ReleaseAllocation,
            pb.ReleaseAllocationRequest(
                name=name.allocation(allocation),
                reason=reason,
                no_quarantine=no_quarantine,
                force=force,
                request_id=new_request_id(),
            ),
        )
    connection.printer.one(released, DETAILS)
