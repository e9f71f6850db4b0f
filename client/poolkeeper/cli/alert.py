"""`poolkeeper alert`: what an admin should know of."""

from cyclopts import App, Parameter

from poolkeeper.cli import name, phrase
from poolkeeper.cli.connection import ALL, HERE, Connection, Paging
from poolkeeper.cli.output import Column
from poolkeeper.v1 import admin_pb2 as pb
from poolkeeper.v1.admin_pb2_grpc import AlertServiceStub

app = App(name="alert", default_parameter=Parameter(negative=(), show_default=False))

COLUMNS: tuple[Column[pb.Alert], ...] = (
    Column("Time", lambda alert: phrase.instant(alert, "time")),
    Column("Kind", lambda alert: phrase.choice(alert, "kind")),
    Column("Subject", lambda alert: name.short(alert.subject) if alert.subject else ""),
    Column("Message", lambda alert: alert.message),
)


@app.command(name="list")
def list_(*, paging: Paging = ALL, connection: Connection = HERE) -> None:
    """List alerts, the newest first."""
    with connection.open() as admin:
        found = admin.pages(
            AlertServiceStub(admin.channel).ListAlerts,
            lambda size, token: pb.ListAlertsRequest(page_size=size, page_token=token),
            lambda page: page.alerts,
            paging,
        )
    connection.printer.many(
        found.items, COLUMNS, field="alerts", next_page_token=found.next_page_token, empty="No alerts."
    )
