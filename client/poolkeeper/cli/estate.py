"""`poolkeeper estate`: customer accounts."""

from typing import Annotated

from cyclopts import App, Parameter

from poolkeeper._request_id import new_request_id
from poolkeeper.cli import argument, name, phrase
from poolkeeper.cli.connection import ALL, HERE, Connection, Paging
from poolkeeper.cli.output import Column
from poolkeeper.v1 import admin_pb2 as pb
from poolkeeper.v1.admin_pb2_grpc import EstateServiceStub

app = App(name="estate", default_parameter=Parameter(negative=(), show_default=False))

COLUMNS: tuple[Column[pb.Estate], ...] = (
    Column("Estate", lambda estate: name.short(estate.name)),
    Column("Title", lambda estate: estate.title),
    Column("Created", lambda estate: phrase.instant(estate, "create_time")),
    Column("Enrolment", lambda estate: "frozen" if estate.enrolment_frozen else "open"),
)


@app.command
def create(
    estate: Annotated[str, Parameter(help="Its id: lower-case letters, digits and hyphens.")],
    /,
    *,
    title: Annotated[str, Parameter(help="The customer's name; without it, the id.")] = "",
    connection: Connection = HERE,
) -> None:
    """Create an estate, with its Default Pool."""
    identifier = name.estate(estate).removeprefix("estates/")
    with connection.open() as admin:
        created = admin.call(
            EstateServiceStub(admin.channel).CreateEstate,
            pb.CreateEstateRequest(estate_id=identifier, title=title or identifier, request_id=new_request_id()),
        )
    connection.printer.one(created, COLUMNS)


@app.command(name="list")
def list_(*, paging: Paging = ALL, connection: Connection = HERE) -> None:
    """List the estates."""
    with connection.open() as admin:
        found = admin.pages(
            EstateServiceStub(admin.channel).ListEstates,
            lambda size, token: pb.ListEstatesRequest(page_size=size, page_token=token),
            lambda page: page.estates,
            paging,
        )
    connection.printer.many(
        found.items,
        COLUMNS,
        field="estates",
        next_page_token=found.next_page_token,
        empty="No estates yet: make one with `poolkeeper estate create`.",
    )


@app.command
def show(estate: argument.Estate, /, *, connection: Connection = HERE) -> None:
    """Show one estate."""
    with connection.open() as admin:
        found = admin.call(EstateServiceStub(admin.channel).GetEstate, pb.GetEstateRequest(name=name.estate(estate)))
    connection.printer.one(found, COLUMNS)


@app.command
def unfreeze(estate: argument.Estate, /, *, connection: Connection = HERE) -> None:
    """End the freeze of enrolments that a honey code caused."""
    with connection.open() as admin:
        found = admin.call(
            EstateServiceStub(admin.channel).UnfreezeEstate,
            pb.UnfreezeEstateRequest(name=name.estate(estate), request_id=new_request_id()),
        )
    connection.printer.one(found, COLUMNS)
