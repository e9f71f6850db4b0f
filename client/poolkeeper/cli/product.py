"""`poolkeeper product`: what licences permit to use."""

from typing import Annotated

from cyclopts import App, Parameter

from poolkeeper._request_id import new_request_id
from poolkeeper.cli import amount, argument, name, phrase
from poolkeeper.cli.connection import ALL, HERE, Connection, Paging
from poolkeeper.cli.output import Column
from poolkeeper.v1 import admin_pb2 as pb
from poolkeeper.v1.admin_pb2_grpc import ProductServiceStub

app = App(name="product", default_parameter=Parameter(negative=(), show_default=False))

COLUMNS: tuple[Column[pb.Product], ...] = (
    Column("Product", lambda product: name.short(product.name)),
    Column("Title", lambda product: product.title),
    Column("One seat covers", lambda product: phrase.units(product.units)),
    Column("Created", lambda product: phrase.instant(product, "create_time")),
)


@app.command
def create(
    product: Annotated[str, Parameter(help="Its id: lower-case letters, digits and hyphens.")],
    /,
    *,
    unit: Annotated[tuple[str, ...], Parameter(help="What one seat covers, as cameras=4; repeatable.")] = (),
    title: Annotated[str, Parameter(help="Its name for people; without it, the id.")] = "",
    connection: Connection = HERE,
) -> None:
    """Add a product to the catalogue."""
    identifier = name.product(product).removeprefix("products/")
    units = amount.pairs(unit, option="--unit", example="cameras=4")
    with connection.open() as admin:
        created = admin.call(
            ProductServiceStub(admin.channel).CreateProduct,
            pb.CreateProductRequest(
                product_id=identifier, title=title or identifier, units=units, request_id=new_request_id()
            ),
        )
    connection.printer.one(created, COLUMNS)


@app.command(name="list")
def list_(*, paging: Paging = ALL, connection: Connection = HERE) -> None:
    """List the products."""
    with connection.open() as admin:
        found = admin.pages(
            ProductServiceStub(admin.channel).ListProducts,
            lambda size, token: pb.ListProductsRequest(page_size=size, page_token=token),
            lambda page: page.products,
            paging,
        )
    connection.printer.many(
        found.items,
        COLUMNS,
        field="products",
        next_page_token=found.next_page_token,
        empty="No products yet: add one with `poolkeeper product create`.",
    )


@app.command
def show(product: argument.Product, /, *, connection: Connection = HERE) -> None:
    """Show one product."""
    with connection.open() as admin:
        found = admin.call(
            ProductServiceStub(admin.channel).GetProduct,
            pb.GetProductRequest(name=name.product(product)),
        )
    connection.printer.one(found, COLUMNS)
