"""`poolkeeper node`: enrolled servers and encoders."""

from typing import Annotated

from cyclopts import App, Parameter

from poolkeeper._request_id import new_request_id
from poolkeeper.cli import argument, name, phrase
from poolkeeper.cli.allocation import COLUMNS as ALLOCATIONS
from poolkeeper.cli.connection import ALL, HERE, Connection, Paging
from poolkeeper.cli.output import Column
from poolkeeper.v1 import admin_pb2 as pb
from poolkeeper.v1.admin_pb2_grpc import NodeServiceStub

app = App(name="node", default_parameter=Parameter(negative=(), show_default=False))


def _binding(binding: pb.Binding) -> str:
    pool = name.short(binding.pool)
    return f"{binding.domain}: {pool}" if binding.domain else pool


def _bindings(node: pb.Node) -> str:
    return ", ".join([_binding(binding) for binding in node.bindings])


COLUMNS: tuple[Column[pb.Node], ...] = (
    Column("Node", lambda node: name.short(node.name)),
    Column("State", lambda node: phrase.choice(node, "state")),
    Column("Pool", _bindings),
    Column("Seats", lambda node: str(node.seats), number=True),
    Column("Last seen", lambda node: phrase.instant(node, "last_seen_time")),
)
DETAILS: tuple[Column[pb.Node], ...] = (
    *COLUMNS,
    Column("Enrolled", lambda node: phrase.instant(node, "enrol_time")),
    Column("Fingerprint", lambda node: node.fingerprint),
)
#: Keys that wait: for `node list --pending`, where each node has one, and by themselves.
KEYS: tuple[Column[pb.PendingKey], ...] = (
    Column("Pool", lambda key: f"{key.domain}: {name.short(key.pool)}" if key.domain else name.short(key.pool)),
    Column("Fingerprint", lambda key: key.fingerprint),
    Column("Source", lambda key: key.source),
    Column("Asked", lambda key: phrase.instant(key, "request_time")),
)
SESSIONS: tuple[Column[pb.NodeSession], ...] = (
    Column("Session", lambda session: session.name.rpartition("/")[2]),
    Column("Host", lambda session: session.host),
    Column("Source", lambda session: session.source),
    Column("Opened", lambda session: phrase.instant(session, "open_time")),
    Column("Last renewed", lambda session: phrase.instant(session, "renew_time")),
    Column("Open", lambda session: phrase.yes(session.open)),
)


def _of_key(column: Column[pb.PendingKey]) -> Column[pb.Node]:
    return Column(column.heading, lambda node: ", ".join(map(column.text, node.pending_keys)))


_WAITING: tuple[Column[pb.Node], ...] = (COLUMNS[0], *map(_of_key, KEYS))


@app.command(name="list")
def list_(
    parent: argument.EstateOrPool,
    /,
    *,
    pending: Annotated[
        bool, Parameter(help="Only keys that wait for approval, with their fingerprints and where they came from.")
    ] = False,
    paging: Paging = ALL,
    connection: Connection = HERE,
) -> None:
    """List the nodes of an estate, or those bound to a pool."""
    above = name.estate_or_pool(parent)
    with connection.open() as admin:
        found = admin.pages(
            NodeServiceStub(admin.channel).ListNodes,
            lambda size, token: pb.ListNodesRequest(parent=above, page_size=size, page_token=token, pending=pending),
            lambda page: page.nodes,
            paging,
        )
    connection.printer.many(
        found.items,
        _WAITING if pending else COLUMNS,
        field="nodes",
        next_page_token=found.next_page_token,
        empty="No key waits for approval."
        if pending
        else "No nodes yet: `poolkeeper code issue` makes a code that enrols one.",
    )
    for node in found.items:
        if node.state == pb.NODE_STATE_COPIED and not connection.printer.as_json:
            short = name.short(node.name)
            connection.printer.line(f"{short} was found on two machines: poolkeeper node show {short}")


@app.command
def show(node: argument.Node, /, *, connection: Connection = HERE) -> None:
    """Show one node."""
    with connection.open() as admin:
        found = admin.call(NodeServiceStub(admin.channel).GetNode, pb.GetNodeRequest(name=name.node(node)))
    printer = connection.printer
    printer.one(found, DETAILS)
    if found.pending_keys and not printer.as_json:
        printer.line()
        printer.many(tuple(found.pending_keys), KEYS, field="pending_keys", empty="")
    if found.sessions and not printer.as_json:
        printer.line()
        printer.many(tuple(found.sessions), SESSIONS, field="sessions", empty="")
    if found.state == pb.NODE_STATE_COPIED and not printer.as_json:
        short = name.short(found.name)
        printer.line()
        printer.line("It was found on two machines. Pick the session of the one that goes on, and no other one will:")
        printer.line(f"  poolkeeper node approve {short} --session ID")
        printer.line("or enrol it anew with a code of `poolkeeper code issue --replace`.")


@app.command
def approve(
    node: argument.Node,
    /,
    *,
    fingerprint: Annotated[str, Parameter(help="Of a node that waits: the fingerprint that the machine shows.")] = "",
    session: Annotated[
        str, Parameter(help="Of a node that was copied: the session, as `node show` lists it, whose machine goes on.")
    ] = "",
    connection: Connection = HERE,
) -> None:
    """Enrol a node that waits, or let one machine of a copied one go on."""
    full = name.node(node)
    with connection.open() as admin:
        approved = admin.call(
            NodeServiceStub(admin.channel).ApproveNode,
            pb.ApproveNodeRequest(
                name=full,
                fingerprint=_bare(fingerprint),
                session=f"{full}/sessions/{session.rpartition('/')[2]}" if session else "",
                request_id=new_request_id(),
            ),
        )
    connection.printer.one(approved, DETAILS)


def _bare(fingerprint: str) -> str:
    # Read out over the phone it has pauses, which people write as spaces, colons or hyphens.
    return "".join(char for char in fingerprint.lower() if char not in " :-")


@app.command
def reject(
    node: argument.Node,
    /,
    *,
    fingerprint: Annotated[
        str, Parameter(help="Only this key, whose code stays good; without it all, and their codes are worthless.")
    ] = "",
    connection: Connection = HERE,
) -> None:
    """Turn keys down that wait for approval."""
    with connection.open() as admin:
        rejected = admin.call(
            NodeServiceStub(admin.channel).RejectNode,
            pb.RejectNodeRequest(name=name.node(node), fingerprint=_bare(fingerprint), request_id=new_request_id()),
        )
    connection.printer.one(rejected, DETAILS)


@app.command
def revoke(
    node: argument.Node,
    /,
    *,
    reason: argument.Reason,
    force: Annotated[
        bool, Parameter(help="Free its leased seats at once, although it may still believe that it holds them.")
    ] = False,
    connection: Connection = HERE,
) -> None:
    """Revoke a node; its leased seats come back when it lets go or at its last promise."""
    with connection.open() as admin:
        revoked = admin.call(
            NodeServiceStub(admin.channel).RevokeNode,
            pb.RevokeNodeRequest(name=name.node(node), reason=reason, force=force, request_id=new_request_id()),
        )
    connection.printer.one(revoked, DETAILS)


@app.command
def migrate(node: argument.Node, /, *, connection: Connection = HERE) -> None:
    """Move the seats of a node's installed allocations to the pool that it is bound to now."""
    with connection.open() as admin:
        migrated = admin.call(
            NodeServiceStub(admin.channel).MigrateNode,
            pb.MigrateNodeRequest(name=name.node(node), request_id=new_request_id()),
        )
    printer = connection.printer
    if printer.as_json:
        printer.one(migrated, ())
    else:
        printer.many(tuple(migrated.allocations), ALLOCATIONS, field="allocations", empty="Nothing to move.")
