"""`poolkeeper consumer`: consumers that an admin registered."""

from typing import Annotated

from cyclopts import App, Parameter

from poolkeeper._request_id import new_request_id
from poolkeeper.cli import argument, name, phrase
from poolkeeper.cli.connection import ALL, HERE, Connection, Paging
from poolkeeper.cli.output import Column
from poolkeeper.v1 import admin_pb2 as pb
from poolkeeper.v1.admin_pb2_grpc import ConsumerServiceStub

app = App(name="consumer", default_parameter=Parameter(negative=(), show_default=False))

COLUMNS: tuple[Column[pb.Consumer], ...] = (
    Column("Consumer", lambda consumer: consumer.consumer),
    Column("User", lambda consumer: consumer.user),
    Column("Host", lambda consumer: consumer.host),
    Column("Registered", lambda consumer: phrase.instant(consumer, "create_time")),
    Column("Name", lambda consumer: consumer.name),
)


@app.command
def add(
    estate: argument.Estate,
    consumer: Annotated[str, Parameter(help="What check-outs name, as camera-4.")],
    /,
    *,
    user: Annotated[str, Parameter(help="The user it belongs to.")] = "",
    host: Annotated[str, Parameter(help="The host it runs on.")] = "",
    connection: Connection = HERE,
) -> None:
    """Register a consumer."""
    with connection.open() as admin:
        added = admin.call(
            ConsumerServiceStub(admin.channel).CreateConsumer,
            pb.CreateConsumerRequest(
                parent=name.estate(estate),
                consumer=consumer,
                user=user,
                host=host,
                request_id=new_request_id(),
            ),
        )
    connection.printer.one(added, COLUMNS)


@app.command(name="list")
def list_(estate: argument.Estate, /, *, paging: Paging = ALL, connection: Connection = HERE) -> None:
    """List the registered consumers of an estate."""
    parent = name.estate(estate)
    with connection.open() as admin:
        found = admin.pages(
            ConsumerServiceStub(admin.channel).ListConsumers,
            lambda size, token: pb.ListConsumersRequest(parent=parent, page_size=size, page_token=token),
            lambda page: page.consumers,
            paging,
        )
    connection.printer.many(
        found.items,
        COLUMNS,
        field="consumers",
        next_page_token=found.next_page_token,
        empty="No consumer is registered.",
    )


@app.command
def show(consumer: argument.Consumer, /, *, connection: Connection = HERE) -> None:
    """Show one registered consumer."""
    with connection.open() as admin:
        found = admin.call(
            ConsumerServiceStub(admin.channel).GetConsumer,
            pb.GetConsumerRequest(name=name.consumer(consumer)),
        )
    connection.printer.one(found, COLUMNS)


@app.command
def remove(consumer: argument.Consumer, /, *, connection: Connection = HERE) -> None:
    """Remove a registration; what the consumer holds, it keeps."""
    target = name.consumer(consumer)
    with connection.open() as admin:
        done = admin.call(
            ConsumerServiceStub(admin.channel).DeleteConsumer,
            pb.DeleteConsumerRequest(name=target, request_id=new_request_id()),
        )
    if connection.json:
        connection.printer.one(done, ())
    else:
        connection.printer.line(f"Removed {name.short(target)}.")
