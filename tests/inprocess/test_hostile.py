"""What no store can keep is refused at the door, in the same words whatever the store, on a stream as elsewhere."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.rpc import error_details_pb2, status_pb2

from poolkeeper.v1 import admin_pb2, licensing_pb2
from poolkeeper.v1 import licensing_pb2 as pb
from tests.inprocess.hostile import LONGEST, spoilt
from tests.inprocess.installation import DrivenTime, Installation, NodeClient, Refused
from tests.postgres import Server

#: They answer in a tenth of a second at the earliest, or are what the stream itself is.
SLOW = {"Enrol"}
LEFT_OUT = {"Connect", "CloseSession", "ExportLedger"}
#: What a refusal may take of the trailers; gRPC's clients take 8 KiB in all.
TRAILERS = 8_000
AT_ONCE = 32


@pytest.fixture
async def both(
    tmp_path: Path, migrated_file: Path, postgres_server: Server, migrated_template: str
) -> AsyncIterator[list[Installation]]:
    """A daemon on each of the stores, with the same estate in each."""
    data = tmp_path / "sqlite"
    data.mkdir(mode=0o700)
    shutil.copy(migrated_file, data / "poolkeeper.sqlite")
    options: list[dict[str, Any]] = [{}, {"database": postgres_server.new_database(migrated_template)}]
    found = [
        Installation(directory, DrivenTime(), given)
        for directory, given in zip((data, tmp_path / "postgres"), options, strict=True)
    ]
    for one in found:
        await one.start()
        await one.studio(4, counting=admin_pb2.COUNTING_USER_HOST)
        await one.new_pool("spare")
        await one.admin.consumers.CreateConsumer(
            admin_pb2.CreateConsumerRequest(parent="estates/acme", consumer="camera")
        )
    yield found
    for one in found:
        await one.stop()


def methods() -> Iterator[tuple[str, MethodDescriptor]]:
    """Every method of every service, with its path."""
    services = [*licensing_pb2.DESCRIPTOR.services_by_name.values(), *admin_pb2.DESCRIPTOR.services_by_name.values()]
    for service in services:
        for method in service.methods:
            yield f"/{service.full_name}/{method.name}", method


async def told(installation: Installation, path: str, body: bytes, token: str) -> tuple[str, str]:
    """Reason and field of the refusal of these bytes; OK where they are answered."""
    method: Any = installation.channel.unary_unary(path)
    call = method(body, metadata=(("authorization", f"Bearer {token}"),))
    if await call.code() is grpc.StatusCode.OK:
        return "OK", ""
    trailers = dict(await call.trailing_metadata())
    assert "grpc-status-details-bin" in trailers, (path, body[:200], await call.details())
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    size = len(quote(status.message, safe=" ")) + len(status.SerializeToString()) * 4 // 3
    assert size < TRAILERS, (path, body[:200], size)
    return explained(status)


def explained(status: status_pb2.Status) -> tuple[str, str]:
    """Reason and field of a refusal."""
    info, request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(request)
    return info.reason or status.message, request.field_violations[0].field if request.field_violations else ""


async def answers(installation: Installation, node: NodeClient) -> dict[tuple[str, str], tuple[str, str]]:
    """How each hostile request of each method is answered."""
    found: dict[tuple[str, str], tuple[str, str]] = {}
    operator = installation.daemon.operator_token
    for path, method in methods():
        if method.name in LEFT_OUT:
            continue
        token = node.token if "LicensingService" in path else operator
        requests = list(spoilt(method.input_type))
        size = AT_ONCE if method.name in SLOW else 1
        for start in range(0, len(requests), size):
            some = requests[start : start + size]
            heard = await asyncio.gather(*(told(installation, path, body, token) for _, body in some))
            found |= {(path, where): one for (where, _), one in zip(some, heard, strict=True)}
    return found


@pytest.mark.behaviour("CC-40")
async def test_no_field_of_any_method_is_a_fault_or_answered_differently_by_another_store(
    both: list[Installation],
) -> None:
    nodes = [await one.node() for one in both]
    on_sqlite, on_postgres = [await answers(one, node) for one, node in zip(both, nodes, strict=True)]
    faults = {what: one for what, one in (on_sqlite | on_postgres).items() if one[0] in {"INTERNAL", "UNKNOWN", ""}}
    assert not faults
    # Which attempts to enrol are counted last is chance; that they are refused is all that matters.
    differ = {
        what: (one, on_postgres[what])
        for what, one in on_sqlite.items()
        if one != on_postgres[what] and not what[0].endswith("/Enrol")
    }
    assert not differ
    assert len(on_sqlite) > 1_500
    for node in nodes:
        await node.check_in((await node.check_out()).allocation.name)


@pytest.mark.behaviour("CC-40")
async def test_a_stream_survives_what_a_call_survives(installation: Installation) -> None:
    await installation.studio(4)
    node = await installation.node()
    kinds = pb.ConnectRequest.DESCRIPTOR.oneofs_by_name["request"].fields
    number = 0
    async with node.stream() as stream:
        for kind in kinds:
            if kind.name == "close_session":
                continue
            for where, body in spoilt(kind.message_type):
                request = pb.ConnectRequest(id=number + 1)
                try:
                    getattr(request, kind.name).MergeFromString(body)
                except Exception:  # noqa: BLE001, S112 - what is no message has no place in one
                    continue
                number += 1
                getattr(request, kind.name).SetInParent()
                await stream.write(request)
                response = await stream.read()
                assert response.id == number, (where, response)
                assert explained(response.error)[0] != "INTERNAL", (where, response)
        await stream.write(pb.ConnectRequest(id=number + 1, heartbeat=pb.HeartbeatRequest()))
        assert (await stream.read()).heartbeat.remaining.seconds > 0
    assert number > 200


@pytest.mark.behaviour("CC-40")
async def test_names_of_the_longest_length_are_counted_on_every_store(installation: Installation) -> None:
    await installation.studio(4, counting=admin_pb2.COUNTING_USER_HOST)
    await installation.admin.consumers.CreateConsumer(
        admin_pb2.CreateConsumerRequest(parent="estates/acme", consumer=LONGEST)
    )
    first, second = await installation.node(), await installation.node("studio-8")
    who = {"consumer": LONGEST, "installation": LONGEST, "user": LONGEST, "host": LONGEST}
    held, shared = await first.check_out(**who), await second.check_out(**who)
    assert shared.allocation.name == held.allocation.name
    other = await second.check_out(consumer=LONGEST[1:], user=LONGEST[1:], host=LONGEST)
    assert other.allocation.name != held.allocation.name
    assert (await installation.pool()).counts.allocated_automatically == 2


@pytest.mark.behaviour("CC-40")
async def test_a_name_is_the_same_however_its_accents_were_typed(installation: Installation) -> None:
    await installation.studio(4)
    node = await installation.node()
    composed, decomposed = await node.check_out(consumer="Zo\u00eb"), await node.check_out(consumer="Zoe\u0308")
    assert composed.allocation.name == decomposed.allocation.name
    assert decomposed.allocation.consumer == "Zo\u00eb"


@pytest.mark.behaviour("CC-40")
async def test_a_listing_of_large_products_is_told_in_pages_that_a_client_can_read(installation: Installation) -> None:
    units = {f"{place:02}{LONGEST[2:]}": 1 for place in range(64)}
    for number in range(80):
        await installation.product(f"p{number}", **units)
    with pytest.raises(Refused) as refused:
        await installation.product("too-many", one_more=1, **units)
    assert refused.value.reason == "INVALID_FIELD"
    found, token = [], ""
    while True:
        page = await installation.admin.products.ListProducts(
            admin_pb2.ListProductsRequest(page_size=1_000, page_token=token)
        )
        found += [one.name for one in page.products]
        token = page.next_page_token
        if not token:
            break
    assert len(found) == len(set(found)) == 80


@pytest.mark.behaviour("CC-40")
async def test_a_refusal_that_could_name_a_thousand_lines_reaches_the_client(installation: Installation) -> None:
    await installation.estate()
    await installation.product()
    for number in range(150):
        await installation.licence(1, order=f"SO-{number % 2}")
    for line, said in (("SO-9", "and 140 more"), ("SO-1", "and 65 more")):
        move = admin_pb2.SeatMove(line=line, count=1)
        assert said in await told_of_move(installation, move)


async def told_of_move(installation: Installation, move: admin_pb2.SeatMove) -> str:
    """The hint of the refusal of that move."""
    request = admin_pb2.CreatePoolRequest(parent="estates/acme", pool_id="west", moves=[move])
    with pytest.raises(Refused) as refused:
        await installation.admin.pools.CreatePool(request)
    return refused.value.hint


@pytest.mark.behaviour("CC-40")
async def test_a_pool_has_no_more_lines_than_can_be_told(installation: Installation) -> None:
    await installation.estate()
    products = [f"{'p' * 60}{number:03}" for number in range(100)]
    for product in products:
        await installation.product(product)
    request = admin_pb2.AddLicenceRequest(
        parent="estates/acme",
        products=products,
        count=1,
        licensed_by=admin_pb2.LICENSED_BY_CONCURRENT_USER,
        order_number=LONGEST,
    )
    for _ in range(100):
        await installation.admin.licences.AddLicence(request)
    with pytest.raises(Refused) as refused:
        await installation.admin.licences.AddLicence(request)
    assert refused.value.reason == "FAILED_PRECONDITION"
    assert "pool move" in refused.value.hint
    assert len((await installation.pool("estates/acme/pools/default")).holdings) == 100
    await installation.new_pool("west", moves={"L000001": 1})
    await installation.admin.licences.AddLicence(request)
