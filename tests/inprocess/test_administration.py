"""Changes that admins make: one effect for each request id, etags, and tokens that stay inside their estate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf import duration_pb2, field_mask_pb2
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from poolkeeper.v1 import admin_pb2
from tests.inprocess.installation import Admin, Installation, answer, span
from tests.inprocess.sources import sources_of
from tests.inprocess.steps import counts, reason_of

ACME, DEFAULT, WEST = "estates/acme", "estates/acme/pools/default", "estates/acme/pools/west"
EAST = "estates/acme/pools/east"
THEIRS = "estates/theirs"


# ---- one effect for each request id ----------------------------------------------------------------------------------


async def test_a_licence_added_twice_under_one_request_id_is_added_once(installation: Installation) -> None:
    await installation.estate()
    await installation.product()
    first = await installation.licence(5, request_id="buy-1")
    again = await installation.licence(5, request_id="buy-1")
    assert again.name == first.name
    assert (await installation.pool(DEFAULT)).counts.total == 5
    await installation.restart()
    assert (await installation.licence(5, request_id="buy-1")).name == first.name
    assert (await installation.licence(5, request_id="buy-2")).name != first.name
    assert (await installation.pool(DEFAULT)).counts.total == 10


async def test_another_request_under_a_used_id_is_refused(installation: Installation) -> None:
    await installation.estate()
    await installation.product()
    await installation.licence(5, request_id="buy-1")
    assert await reason_of(installation.licence(6, request_id="buy-1")) == "REQUEST_ID_REUSED"
    assert (await installation.pool(DEFAULT)).counts.total == 5


async def test_seats_moved_twice_under_one_request_id_are_moved_once(installation: Installation) -> None:
    await installation.studio(seats=0)
    request = admin_pb2.MoveSeatsRequest(
        source=DEFAULT, target=WEST, moves=[admin_pb2.SeatMove(line="SO-1", count=3)], request_id="move-1"
    )
    for _ in range(2):
        moved = await installation.admin.pools.MoveSeats(request)
        assert moved.target.counts.total == 3


async def test_a_repeated_creation_is_answered_as_the_first(installation: Installation) -> None:
    estates, products = installation.admin.estates, installation.admin.products
    for _ in range(2):
        await estates.CreateEstate(admin_pb2.CreateEstateRequest(estate_id="acme", title="Acme", request_id="e1"))
        await products.CreateProduct(admin_pb2.CreateProductRequest(product_id="p", title="P", request_id="p1"))
        request = admin_pb2.CreatePoolRequest(parent=ACME, pool_id="west", pool=admin_pb2.Pool(), request_id="w1")
        assert (await installation.admin.pools.CreatePool(request)).name == WEST
        consumer = admin_pb2.CreateConsumerRequest(parent=ACME, consumer="ann", request_id="c1")
        assert (await installation.admin.consumers.CreateConsumer(consumer)).consumer == "ann"
    again = admin_pb2.CreateEstateRequest(estate_id="acme", title="Acme", request_id="e2")
    assert await reason_of(estates.CreateEstate(again)) == "ALREADY_EXISTS"


async def test_a_token_is_shown_once(installation: Installation) -> None:
    request = admin_pb2.CreateTokenRequest(title="night shift", request_id="t1")
    first = await installation.admin.tokens.CreateToken(request)
    again = await installation.admin.tokens.CreateToken(request)
    assert first.secret
    assert again.secret == ""
    assert again.token == first.token


async def test_a_late_repetition_of_an_unfreezing_does_not_unfreeze_again(installation: Installation) -> None:
    await installation.studio()
    request = admin_pb2.UnfreezePoolRequest(name=WEST, request_id="u1")
    async with sources_of(installation) as sources:
        for _ in range(2):
            for _ in range(5):
                await reason_of((await sources.stranger()).enrol(WEST, "1"))
            await installation.admin.pools.UnfreezePool(request)
    assert (await installation.pool()).HasField("enrolment_thaw_time")


# ---- etags -----------------------------------------------------------------------------------------------------------


def titled(title: str, etag: str = "") -> admin_pb2.UpdatePoolRequest:
    pool = admin_pb2.Pool(name=WEST, title=title, etag=etag)
    return admin_pb2.UpdatePoolRequest(pool=pool, update_mask=field_mask_pb2.FieldMask(paths=["title"]))


async def test_a_change_of_what_was_changed_since_is_refused(installation: Installation) -> None:
    await installation.studio()
    update = installation.admin.pools.UpdatePool
    read = (await installation.pool()).etag
    changed = await update(titled("first", read))
    assert changed.etag != read
    assert await reason_of(update(titled("second", read))) == "ETAG_MISMATCH"
    closing = installation.admin.pools.ClosePool(admin_pb2.ClosePoolRequest(name=WEST, etag=read))
    assert await reason_of(closing) == "ETAG_MISMATCH"
    assert (await installation.pool()).title == "first"
    assert (await update(titled("second", changed.etag))).title == "second"
    assert (await update(titled("third"))).title == "third"


async def test_an_update_leaves_alone_what_its_mask_does_not_name(installation: Installation) -> None:
    await installation.studio(title="West", minimum_allocation=60)
    changed = await installation.admin.pools.UpdatePool(titled("North"))
    assert (changed.title, changed.minimum_allocation) == ("North", duration_pb2.Duration(seconds=60))


# ---- tokens ----------------------------------------------------------------------------------------------------------

SERVICES = admin_pb2.DESCRIPTOR.services_by_name
#: What any token may read: the catalogue, the clock, and the list of estates, which shows its own only.
SHARED = {"GetProduct", "ListProducts", "GetClock", "ListEstates"}


async def token(installation: Installation, estate: str = ACME, **fields: Any) -> admin_pb2.CreateTokenResponse:
    made: admin_pb2.CreateTokenResponse = await installation.admin.tokens.CreateToken(
        admin_pb2.CreateTokenRequest(title="night shift", estate=estate, **fields)
    )
    return made


async def admin_of(installation: Installation, estate: str = ACME) -> Any:
    return Admin(installation.channel, (await token(installation, estate)).secret)


async def of_theirs(installation: Installation) -> dict[str, str]:
    """An estate full of everything, and the names of what is in it, by service."""
    await installation.estate("theirs")
    licence = await installation.licence(5, estate=THEIRS)
    for pool in ("west", "east"):
        await installation.new_pool(pool, estate=THEIRS, moves={"SO-1": 1})
    node = await installation.node(pool=f"{THEIRS}/pools/west")
    held = await node.check_out()
    await installation.admin.consumers.CreateConsumer(admin_pb2.CreateConsumerRequest(parent=THEIRS, consumer="ann"))
    issued = await installation.admin.codes.IssueCode(
        admin_pb2.IssueCodeRequest(parent=f"{THEIRS}/pools/west", node_id="studio-8")
    )
    return {
        "EstateService": THEIRS,
        "LicenceService": licence.name,
        "PoolService": f"{THEIRS}/pools/west",
        "CodeService": issued.code.name,
        "NodeService": node.name,
        "ConsumerService": f"{THEIRS}/consumers/ann",
        "AllocationService": held.allocation.name,
        "LedgerService": f"{THEIRS}/pools/west",
        "TokenService": "tokens/operator",
    }


def about(service: str, method: str, names: dict[str, str], parent: str) -> Message:
    """A request of that method about their things, otherwise as it should be."""
    request: Message = GetMessageClass(SERVICES[service].methods_by_name[method].input_type)()
    given: dict[str, Any] = {
        "name": names.get(service, ""),
        "parent": parent,
        "source": f"{THEIRS}/pools/west",
        "target": f"{THEIRS}/pools/east",
        "node_id": "studio-9",
        "pool_id": "north",
        "consumer": "bob",
        "reason": "because",
        "title": "Theirs",
        "estate_id": "another",
        "product_id": "another",
        "count": 1,
        "order_number": "SO-7",
        "licensed_by": admin_pb2.LICENSED_BY_CONCURRENT_USER,
    }
    for field in request.DESCRIPTOR.fields:
        if field.name in given:
            setattr(request, field.name, given[field.name])
    if isinstance(request, admin_pb2.UpdatePoolRequest):
        request.CopyFrom(titled("taken over"))
        request.pool.name = f"{THEIRS}/pools/west"
    if isinstance(request, admin_pb2.AddLicenceRequest):
        request.products.append("encoder")
    return request


async def everything(installation: Installation) -> list[Message]:
    """All that the operator sees of their estate."""
    admin = installation.admin
    return [
        await admin.estates.GetEstate(admin_pb2.GetEstateRequest(name=THEIRS)),
        await admin.licences.ListLicences(admin_pb2.ListLicencesRequest(parent=THEIRS)),
        await admin.pools.ListPools(admin_pb2.ListPoolsRequest(parent=THEIRS)),
        await admin.codes.ListCodes(admin_pb2.ListCodesRequest(parent=THEIRS)),
        await admin.nodes.ListNodes(admin_pb2.ListNodesRequest(parent=THEIRS)),
        await admin.consumers.ListConsumers(admin_pb2.ListConsumersRequest(parent=THEIRS)),
        await admin.allocations.ListAllocations(admin_pb2.ListPoolAllocationsRequest(parent=THEIRS)),
        await admin.ledgers.ListEntries(admin_pb2.ListEntriesRequest(parent=f"{THEIRS}/pools/west")),
        await admin.ledgers.ListEntries(admin_pb2.ListEntriesRequest(parent=f"{THEIRS}/pools/east")),
        await admin.estates.ListEstates(admin_pb2.ListEstatesRequest()),
        await admin.products.ListProducts(admin_pb2.ListProductsRequest()),
        await admin.tokens.ListTokens(admin_pb2.ListTokensRequest()),
    ]


async def test_a_token_of_one_estate_sees_and_changes_nothing_of_another(installation: Installation) -> None:
    await installation.studio()
    names = await of_theirs(installation)
    ours: Any = await admin_of(installation)
    before = await everything(installation)
    for service in SERVICES:
        stub = getattr(ours, f"{service.removesuffix('Service').lower()}s")
        for method in SERVICES[service].methods:
            if method.name in SHARED:
                continue
            for parent in (THEIRS, f"{THEIRS}/pools/west"):
                call = getattr(stub, method.name)(about(service, method.name, names, parent))
                if method.server_streaming:
                    call = answer(call.read())
                assert await reason_of(call) in {"PERMISSION_DENIED", "INVALID_FIELD"}, method.full_name
    assert await everything(installation) == before


async def test_the_operator_may_do_what_such_a_token_may_not(installation: Installation) -> None:
    """Without this the requests above might be refused for a fault of their own."""
    await installation.studio()
    names = await of_theirs(installation)
    for service, method, parent in (
        ("PoolService", "GetPool", THEIRS),
        ("PoolService", "CreatePool", THEIRS),
        ("PoolService", "UpdatePool", THEIRS),
        ("LicenceService", "AddLicence", THEIRS),
        ("ConsumerService", "CreateConsumer", THEIRS),
        ("CodeService", "IssueCode", f"{THEIRS}/pools/west"),
        ("CodeService", "RevokeCode", THEIRS),
        ("AllocationService", "ReleaseAllocation", THEIRS),
        ("NodeService", "RevokeNode", THEIRS),
        ("LedgerService", "ListEntries", f"{THEIRS}/pools/west"),
    ):
        stub = getattr(installation.admin, f"{service.removesuffix('Service').lower()}s")
        await getattr(stub, method)(about(service, method, names, parent))


async def test_names_of_another_estate_do_not_slip_in_beside_ones_own(installation: Installation) -> None:
    await installation.studio()
    await of_theirs(installation)
    ours = await admin_of(installation)
    for source, target in ((DEFAULT, f"{THEIRS}/pools/east"), (f"{THEIRS}/pools/east", DEFAULT)):
        request = admin_pb2.MoveSeatsRequest(
            source=source, target=target, moves=[admin_pb2.SeatMove(line="SO-1", count=1)]
        )
        assert await reason_of(ours.pools.MoveSeats(request)) in {"PERMISSION_DENIED", "INVALID_FIELD"}
        assert await reason_of(installation.admin.pools.MoveSeats(request)) == "INVALID_FIELD"
    assert await counts(installation, f"{THEIRS}/pools/east") == (1, 0, 0, 1)


async def test_a_token_of_one_estate_does_its_own_work(installation: Installation) -> None:
    await installation.studio()
    await of_theirs(installation)
    ours: Any = await admin_of(installation)
    assert [estate.name for estate in (await ours.estates.ListEstates(admin_pb2.ListEstatesRequest())).estates] == [
        ACME
    ]
    assert (await ours.pools.GetPool(admin_pb2.GetPoolRequest(name=WEST))).counts.total == 4
    issued = await ours.codes.IssueCode(admin_pb2.IssueCodeRequest(parent=WEST, node_id="studio-7"))
    assert (await installation.stranger().enrol(WEST, issued.digits)).pool == WEST


OPERATORS: dict[str, Callable[[Any], Any]] = {
    "estates are made": lambda admin: admin.estates.CreateEstate(
        admin_pb2.CreateEstateRequest(estate_id="mine", title="Mine")
    ),
    "products are made": lambda admin: admin.products.CreateProduct(
        admin_pb2.CreateProductRequest(product_id="mine", title="Mine")
    ),
    "tokens are made": lambda admin: admin.tokens.CreateToken(admin_pb2.CreateTokenRequest(title="mine", estate=ACME)),
    "tokens are listed": lambda admin: admin.tokens.ListTokens(admin_pb2.ListTokensRequest()),
    "tokens are revoked": lambda admin: admin.tokens.RevokeToken(admin_pb2.RevokeTokenRequest(name="tokens/operator")),
    "the clock is accepted": lambda admin: admin.clocks.AcceptClock(admin_pb2.AcceptClockRequest()),
    "alerts are listed": lambda admin: admin.alerts.ListAlerts(admin_pb2.ListAlertsRequest()),
}


async def test_what_concerns_the_whole_installation_is_the_operators(installation: Installation) -> None:
    await installation.estate()
    ours = await admin_of(installation)
    for what, call in OPERATORS.items():
        assert await reason_of(call(ours)) == "PERMISSION_DENIED", what
    for what, call in OPERATORS.items():
        if what != "tokens are revoked":
            await call(installation.admin)


async def test_a_revoked_token_an_unknown_one_and_one_whose_time_is_over_open_nothing(
    installation: Installation,
) -> None:
    await installation.estate()
    revoked = await token(installation)
    short = await token(installation, lifetime=span(60))
    asked = admin_pb2.GetEstateRequest(name=ACME)
    for secret in (revoked.secret, short.secret):
        await Admin(installation.channel, secret).estates.GetEstate(asked)
    await installation.admin.tokens.RevokeToken(admin_pb2.RevokeTokenRequest(name=revoked.token.name))
    await installation.leap(60)
    for secret in (revoked.secret, short.secret, "pk_nothing", "", revoked.token.name):
        assert await reason_of(Admin(installation.channel, secret).estates.GetEstate(asked)) == "UNAUTHENTICATED"


async def test_a_nodes_token_administers_nothing(installation: Installation) -> None:
    await installation.studio()
    node = await installation.node()
    asked = admin_pb2.GetEstateRequest(name=ACME)
    assert await reason_of(Admin(installation.channel, node.token).estates.GetEstate(asked)) == "UNAUTHENTICATED"
