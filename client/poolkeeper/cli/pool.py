"""`poolkeeper pool`: where licences are drawn from."""

from typing import Annotated, Literal

from cyclopts import App, Parameter
from google.protobuf.field_mask_pb2 import FieldMask

from poolkeeper._request_id import new_request_id
from poolkeeper.cli import amount, argument, duration, holding, name, phrase
from poolkeeper.cli.connection import ALL, HERE, Connection, Paging
from poolkeeper.cli.output import Column
from poolkeeper.cli.problem import usage
from poolkeeper.v1 import admin_pb2 as pb
from poolkeeper.v1 import licensing_pb2
from poolkeeper.v1.admin_pb2_grpc import PoolServiceStub

app = App(name="pool", default_parameter=Parameter(negative=(), show_default=False))

Counting = Literal["CONSUMER", "USER", "HOST", "USER_HOST"]
CheckInReason = Literal["ENDED", "UNINSTALLED", "UNIT_REMOVED", "NODE_DELETED"]

COLUMNS: tuple[Column[pb.Pool], ...] = (
    Column("Pool", lambda pool: name.short(pool.name)),
    Column("Title", lambda pool: pool.title),
    Column("State", lambda pool: phrase.choice(pool, "state")),
    Column("Total", lambda pool: str(pool.counts.total), number=True),
    Column("Allocated", lambda pool: phrase.allocated(pool.counts), number=True),
    Column("Quarantine", lambda pool: str(pool.counts.quarantined), number=True),
    Column("Free", lambda pool: str(pool.counts.available), number=True),
    Column("Waiting", lambda pool: str(pool.waiting), number=True),
    Column("Nodes", lambda pool: str(pool.node_count), number=True),
    Column("Codes", lambda pool: "frozen" if pool.HasField("enrolment_thaw_time") else "open"),
)
DETAILS: tuple[Column[pb.Pool], ...] = (
    *COLUMNS[:3],
    Column("Seats", lambda pool: phrase.seats(pool.counts)),
    Column("Waiting", lambda pool: str(pool.waiting)),
    Column("Nodes", lambda pool: str(pool.node_count)),
    Column("Minimum allocation", lambda pool: phrase.span(pool, "minimum_allocation")),
    Column("Lease", lambda pool: phrase.span(pool, "lease_duration")),
    Column("Heartbeat", lambda pool: phrase.span(pool, "heartbeat_interval")),
    Column("Margin", lambda pool: phrase.span(pool, "margin")),
    Column("Counting", lambda pool: phrase.choice(pool, "counting")),
    Column("Skip quarantine", lambda pool: phrase.choices(pool, "skip_quarantine")),
    Column("Continuation", lambda pool: phrase.span(pool, "continuation")),
    Column("Reclaim after", lambda pool: phrase.span(pool, "reclaim_after") or "never"),
    Column("Gives no seat until", lambda pool: phrase.instant(pool, "quiet_until_time")),
    Column("Codes frozen until", lambda pool: phrase.instant(pool, "enrolment_thaw_time")),
    Column("Created", lambda pool: phrase.instant(pool, "create_time")),
    Column("Etag", lambda pool: pool.etag),
)

Title = Annotated[str | None, Parameter(help="Its name for people.")]
MinimumAllocation = Annotated[
    str | None, Parameter(help="A seat given back sooner waits in quarantine for the rest, as 30m.")
]
Lease = Annotated[str | None, Parameter(help="How long a renewal holds, 6s to 5d.")]
Heartbeat = Annotated[
    str | None, Parameter(help="How often clients renew, at least 2s and at most a third of the lease.")
]
Margin = Annotated[str | None, Parameter(help="What is added to a promise before its seat is given away, as 5s.")]
CountingOption = Annotated[Counting | None, Parameter(help="What one concurrent seat is counted by.")]
SkipQuarantine = Annotated[
    tuple[CheckInReason, ...] | None, Parameter(help="Check-ins for this reason skip quarantine; repeatable.")
]
ReclaimAfter = Annotated[
    str | None, Parameter(help="Take installed seats back that were not seen for so long, as 30d.")
]

Continuation = Annotated[
    str | None, Parameter(help="How long installed seats may be used after the last contact, as 40d.")
]


def _settings(
    pool: pb.Pool,
    *,
    title: str | None,
    minimum_allocation: str | None,
    lease: str | None,
    heartbeat: str | None,
    margin: str | None,
    counting: Counting | None,
    skip_quarantine: tuple[CheckInReason, ...] | None,
    reclaim_after: str | None,
    continuation: str | None,
) -> list[str]:
    # The fields that were given, set on the pool.
    spans = {
        "minimum_allocation": ("--minimum-allocation", minimum_allocation),
        "lease_duration": ("--lease", lease),
        "heartbeat_interval": ("--heartbeat", heartbeat),
        "margin": ("--margin", margin),
        "reclaim_after": ("--reclaim-after", reclaim_after),
        "continuation": ("--continuation", continuation),
    }
    given = []
    for field, (option, text) in spans.items():
        if text is not None:
            getattr(pool, field).CopyFrom(duration.message(text, option=option))
            given.append(field)
    if title is not None:
        pool.title = title
        given.append("title")
    if counting is not None:
        pool.counting = pb.Counting.Value(f"COUNTING_{counting}")
        given.append("counting")
    if skip_quarantine is not None:
        pool.skip_quarantine.extend(
            licensing_pb2.CheckInReason.Value(f"CHECK_IN_REASON_{reason}") for reason in skip_quarantine
        )
        given.append("skip_quarantine")
    return given


def _moves(texts: tuple[str, ...], option: str) -> list[pb.SeatMove]:
    return [
        pb.SeatMove(line=line, count=count)
        for line, count in amount.pairs(texts, option=option, example="SO-1001=4").items()
    ]


@app.command
def create(
    estate: argument.Estate,
    pool: Annotated[str, Parameter(help="Its id: lower-case letters, digits and hyphens.")],
    /,
    *,
    move: Annotated[
        tuple[str, ...], Parameter(help="Seats from the Default Pool, as SO-1001=4 or L000001=4; repeatable.")
    ] = (),
    title: Title = None,
    minimum_allocation: MinimumAllocation = None,
    lease: Lease = None,
    heartbeat: Heartbeat = None,
    margin: Margin = None,
    counting: CountingOption = None,
    skip_quarantine: SkipQuarantine = None,
    reclaim_after: ReclaimAfter = None,
    continuation: Continuation = None,
    connection: Connection = HERE,
) -> None:
    """Create a pool and move seats into it, in one step."""
    parent = name.estate(estate)
    identifier = name.pool_in(parent, pool).rpartition("/")[2]
    settings = pb.Pool()
    _settings(
        settings,
        title=identifier if title is None else title,
        minimum_allocation=minimum_allocation,
        lease=lease,
        heartbeat=heartbeat,
        margin=margin,
        counting=counting,
        skip_quarantine=skip_quarantine,
        reclaim_after=reclaim_after,
        continuation=continuation,
    )
    request = pb.CreatePoolRequest(
        parent=parent,
        pool_id=identifier,
        pool=settings,
        moves=_moves(move, "--move"),
        request_id=new_request_id(),
    )
    with connection.open() as admin:
        created = admin.call(PoolServiceStub(admin.channel).CreatePool, request)
    _describe(connection, created)


@app.command(name="list")
def list_(estate: argument.Estate, /, *, paging: Paging = ALL, connection: Connection = HERE) -> None:
    """List the pools of an estate with their seats."""
    parent = name.estate(estate)
    with connection.open() as admin:
        found = admin.pages(
            PoolServiceStub(admin.channel).ListPools,
            lambda size, token: pb.ListPoolsRequest(parent=parent, page_size=size, page_token=token),
            lambda page: page.pools,
            paging,
        )
    connection.printer.many(
        found.items, COLUMNS, field="pools", next_page_token=found.next_page_token, empty="No pools."
    )


@app.command
def show(pool: argument.Pool, /, *, connection: Connection = HERE) -> None:
    """Show a pool's settings, and its seats line by line."""
    with connection.open() as admin:
        found = admin.call(PoolServiceStub(admin.channel).GetPool, pb.GetPoolRequest(name=name.pool(pool)))
    _describe(connection, found)


@app.command
def update(
    pool: argument.Pool,
    /,
    *,
    title: Title = None,
    minimum_allocation: MinimumAllocation = None,
    lease: Lease = None,
    heartbeat: Heartbeat = None,
    margin: Margin = None,
    counting: CountingOption = None,
    skip_quarantine: SkipQuarantine = None,
    no_skip_quarantine: Annotated[bool, Parameter(help="No check-in skips quarantine.")] = False,
    reclaim_after: ReclaimAfter = None,
    continuation: Continuation = None,
    no_reclaim: Annotated[bool, Parameter(help="Never take installed seats back by themselves.")] = False,
    etag: Annotated[str, Parameter(help="Refuse when the pool was changed since this etag was shown.")] = "",
    connection: Connection = HERE,
) -> None:
    """Change a pool's settings; what is not named stays."""
    if (skip_quarantine and no_skip_quarantine) or (reclaim_after and no_reclaim):
        raise usage("an option and its opposite were given")
    settings = pb.Pool(name=name.pool(pool), etag=etag)
    given = _settings(
        settings,
        title=title,
        minimum_allocation=minimum_allocation,
        lease=lease,
        heartbeat=heartbeat,
        margin=margin,
        counting=counting,
        skip_quarantine=() if no_skip_quarantine else skip_quarantine,
        reclaim_after=reclaim_after,
        continuation=continuation,
    )
    # A field that is in the mask and not in the message is cleared.
    given += ["reclaim_after"] if no_reclaim else []
    if not given:
        raise usage("nothing to change", hint="name at least one setting, for example --title 'West wing'")
    request = pb.UpdatePoolRequest(pool=settings, update_mask=FieldMask(paths=given), request_id=new_request_id())
    with connection.open() as admin:
        updated = admin.call(PoolServiceStub(admin.channel).UpdatePool, request)
    _describe(connection, updated)


@app.command
def move(
    estate: argument.Estate,
    source: Annotated[str, Parameter(help="Pool that gives, for example default.")],
    target: Annotated[str, Parameter(help="Pool that gets, for example west.")],
    /,
    *lines: Annotated[str, Parameter(help="Seats, as SO-1001=4 or L000001=4.")],
    connection: Connection = HERE,
) -> None:
    """Move unused seats between two pools of an estate; all of them or none."""
    parent = name.estate(estate)
    if not lines:
        raise usage("nothing to move", hint="name lines and amounts, for example SO-1001=4")
    request = pb.MoveSeatsRequest(
        source=name.pool_in(parent, source),
        target=name.pool_in(parent, target),
        moves=_moves(lines, "LINE"),
        request_id=new_request_id(),
    )
    with connection.open() as admin:
        moved = admin.call(PoolServiceStub(admin.channel).MoveSeats, request)
    printer = connection.printer
    if printer.as_json:
        printer.one(moved, ())
    else:
        printer.many((moved.source, moved.target), COLUMNS, field="pools", empty="")


@app.command
def close(
    pool: argument.Pool,
    /,
    *,
    etag: Annotated[str, Parameter(help="Refuse when the pool was changed since this etag was shown.")] = "",
    connection: Connection = HERE,
) -> None:
    """Close a pool: nothing is granted or renewed any more."""
    with connection.open() as admin:
        closed = admin.call(
            PoolServiceStub(admin.channel).ClosePool,
            pb.ClosePoolRequest(name=name.pool(pool), etag=etag, request_id=new_request_id()),
        )
    _describe(connection, closed)


@app.command
def unfreeze(pool: argument.Pool, /, *, connection: Connection = HERE) -> None:
    """End the freeze of a pool's codes that failed enrolments caused."""
    with connection.open() as admin:
        thawed = admin.call(
            PoolServiceStub(admin.channel).UnfreezePool,
            pb.UnfreezePoolRequest(name=name.pool(pool), request_id=new_request_id()),
        )
    _describe(connection, thawed)


def _describe(connection: Connection, pool: pb.Pool) -> None:
    connection.printer.one(pool, DETAILS)
    holding.show(connection.printer, pool.holdings)
