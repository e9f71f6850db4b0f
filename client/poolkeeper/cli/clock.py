"""`poolkeeper clock`: the civil time that the installation goes by."""

from cyclopts import App, Parameter

from poolkeeper._request_id import new_request_id
from poolkeeper.cli import phrase
from poolkeeper.cli.connection import HERE, Connection
from poolkeeper.cli.output import Column
from poolkeeper.v1 import admin_pb2 as pb
from poolkeeper.v1.admin_pb2_grpc import ClockServiceStub

app = App(name="clock", default_parameter=Parameter(negative=(), show_default=False))

COLUMNS: tuple[Column[pb.Clock], ...] = (
    Column("State", lambda clock: "FROZEN" if clock.frozen else "running"),
    Column("Civil time", lambda clock: phrase.instant(clock, "civil_time")),
    Column("Host time", lambda clock: phrase.instant(clock, "host_time")),
    Column("Lease time", lambda clock: phrase.span(clock, "lease_time")),
    Column("Explanation", lambda clock: clock.explanation),
)


@app.command
def show(*, connection: Connection = HERE) -> None:
    """Show civil and lease time, and whether new grants of dated licences are frozen."""
    with connection.open() as admin:
        found = admin.call(ClockServiceStub(admin.channel).GetClock, pb.GetClockRequest())
    connection.printer.one(found, COLUMNS)


@app.command
def accept(*, connection: Connection = HERE) -> None:
    """Take the host's civil time for right, and end the freeze."""
    with connection.open() as admin:
        found = admin.call(
            ClockServiceStub(admin.channel).AcceptClock, pb.AcceptClockRequest(request_id=new_request_id())
        )
    connection.printer.one(found, COLUMNS)
