"""`poolkeeper licence`: purchases."""

from typing import Annotated, Literal

from cyclopts import App, Parameter

from poolkeeper._request_id import new_request_id
from poolkeeper.cli import argument, holding, name, phrase
from poolkeeper.cli.connection import ALL, HERE, Connection, Paging
from poolkeeper.cli.output import Column
from poolkeeper.cli.problem import usage
from poolkeeper.v1 import admin_pb2 as pb
from poolkeeper.v1.admin_pb2_grpc import LicenceServiceStub

app = App(name="licence", default_parameter=Parameter(negative=(), show_default=False))

LicensedBy = Literal["CONCURRENT_USER", "INSTALLED_INSTANCE"]

COLUMNS: tuple[Column[pb.Licence], ...] = (
    Column("Licence", lambda licence: name.short(licence.name)),
    Column("Order", lambda licence: licence.order_number),
    Column("Products", lambda licence: phrase.names(licence.products)),
    Column("Licensed by", lambda licence: phrase.choice(licence, "licensed_by")),
    Column("Count", lambda licence: str(licence.count), number=True),
    Column("Valid", lambda licence: holding.validity(licence.valid_from, licence.valid_until)),
    Column("Added", lambda licence: phrase.instant(licence, "create_time")),
)


def _day(text: str, option: str) -> str:
    import contextlib
    from datetime import date

    if not text:
        return ""
    with contextlib.suppress(ValueError):
        # fromisoformat alone would also take other forms, such as week numbers.
        if date.fromisoformat(text).isoformat() == text:
            return text
    raise usage(f"{text!r} is not a day for {option}", hint="write it as 2027-12-31")


@app.command
def add(
    estate: argument.Estate,
    /,
    *,
    product: Annotated[tuple[str, ...], Parameter(required=True, help="What it permits to use; repeatable.")],
    count: Annotated[int, Parameter(help="How many seats.")],
    licensed_by: Annotated[LicensedBy, Parameter(help="What counts as one.")],
    order: Annotated[str, Parameter(help="The order number.")] = "",
    valid_from: Annotated[str, Parameter(help="First day, as 2027-01-01.")] = "",
    valid_until: Annotated[str, Parameter(help="Last day, as 2027-12-31.")] = "",
    connection: Connection = HERE,
) -> None:
    """Add a purchase; its seats lie in the Default Pool."""
    request = pb.AddLicenceRequest(
        parent=name.estate(estate),
        products=[name.product(one) for one in product],
        count=_seats(count),
        licensed_by=pb.LicensedBy.Value(f"LICENSED_BY_{licensed_by}"),
        order_number=order,
        valid_from=_day(valid_from, "--valid-from"),
        valid_until=_day(valid_until, "--valid-until"),
        request_id=new_request_id(),
    )
    with connection.open() as admin:
        added = admin.call(LicenceServiceStub(admin.channel).AddLicence, request)
    connection.printer.one(added, COLUMNS)
    holding.show(connection.printer, added.holdings)


def _seats(count: int) -> int:
    most = 1_000_000_000
    if not 1 <= count <= most:
        raise usage(f"--count {count} is not from 1 to {most:,}")
    return count


@app.command(name="list")
def list_(estate: argument.Estate, /, *, paging: Paging = ALL, connection: Connection = HERE) -> None:
    """List the purchases of an estate."""
    parent = name.estate(estate)
    with connection.open() as admin:
        found = admin.pages(
            LicenceServiceStub(admin.channel).ListLicences,
            lambda size, token: pb.ListLicencesRequest(parent=parent, page_size=size, page_token=token),
            lambda page: page.licences,
            paging,
        )
    connection.printer.many(
        found.items,
        COLUMNS,
        field="licences",
        next_page_token=found.next_page_token,
        empty="No licences yet: add one with `poolkeeper licence add`.",
    )


@app.command
def show(licence: argument.Licence, /, *, connection: Connection = HERE) -> None:
    """Show one purchase and the pools that its seats lie in."""
    with connection.open() as admin:
        found = admin.call(
            LicenceServiceStub(admin.channel).GetLicence,
            pb.GetLicenceRequest(name=name.licence(licence)),
        )
    connection.printer.one(found, COLUMNS)
    holding.show(connection.printer, found.holdings)
