"""What tokens of one estate can reach, method by method."""

from __future__ import annotations

from typing import Any, cast

import pytest
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from poolkeeper.v1 import admin_pb2 as pb
from poolkeeper_server.domain.records import Estate
from poolkeeper_server.domain.refusal import Reason, Refusal
from poolkeeper_server.services.contract import Administration
from poolkeeper_server.services.tokens import AdminIdentity
from poolkeeper_server.transport.administration import admin_bindings
from poolkeeper_server.transport.handlers import Access, AdminCall, Call

# Names in an estate that the token does not reach, by the service and the field that holds them.
THEIRS = {"parent": "estates/theirs", "source": "estates/theirs/pools/west", "target": "estates/theirs/pools/east"}
NAMES = {
    "EstateService": "estates/theirs",
    "LicenceService": "estates/theirs/licences/L000001",
    "PoolService": "estates/theirs/pools/west",
    "CodeService": "estates/theirs/pools/west/codes/0000000000000000000000c1",
    "NodeService": "estates/theirs/nodes/studio-7",
    "ConsumerService": "estates/theirs/consumers/camera",
    "AllocationService": "estates/theirs/pools/west/allocations/0000000000000000000000a1",
    "LedgerService": "estates/theirs/pools/west",
    "TokenService": "tokens/0000000000000000000000t1",
}
# Methods whose parent must be a pool.
IN_POOL = {"IssueCode", "ListEntries"}
# What every admin may see.
OPEN = {"GetProduct", "ListProducts", "GetClock", "ListEstates"}

SERVICES = pb.DESCRIPTOR.services_by_name
METHODS = [(service, method.name) for service in SERVICES for method in SERVICES[service].methods]


class Untouched:
    """Stands where nobody may come: a refused call must not even ask."""

    def __getattr__(self, name: str) -> object:
        def asked(*given: object, **named: object) -> None:
            raise AssertionError(f"{name} was asked: {given} {named}")

        return asked


class OneEstate:
    async def estate(self, estate_id: str) -> Estate:
        return Estate(estate_id=estate_id, title="Acme", created_at=0)


def servicer(service: str, administration: object) -> Any:  # One of twelve servicers.
    bindings = {binding.service.name: binding for binding in admin_bindings(cast("Administration", administration))}
    assert bindings[service].access is Access.ADMIN
    return bindings[service].servicer


def acme() -> AdminCall:
    return Call(AdminIdentity("t1", "acme"), cast("Any", None), cast("Any", None))


def request_about_theirs(service: str, method: str) -> Message:
    request: Message = GetMessageClass(SERVICES[service].methods_by_name[method].input_type)()
    for field, name in {**THEIRS, "name": NAMES.get(service, "")}.items():
        if field in request.DESCRIPTOR.fields_by_name:
            setattr(request, field, f"{name}/pools/west" if field == "parent" and method in IN_POOL else name)
    if isinstance(request, pb.UpdatePoolRequest):
        request.pool.name = "estates/theirs/pools/west"
    return request


@pytest.mark.parametrize(("service", "method"), [pair for pair in METHODS if pair[1] not in OPEN])
async def test_a_token_of_one_estate_reaches_no_other(service: str, method: str) -> None:
    answer = getattr(servicer(service, Untouched()), method)(request_about_theirs(service, method), acme())
    with pytest.raises(Refusal) as caught:
        await (anext(answer) if hasattr(answer, "__anext__") else answer)
    assert caught.value.reason is Reason.PERMISSION_DENIED


async def test_a_token_of_one_estate_lists_that_alone() -> None:
    listed = await servicer("EstateService", OneEstate()).ListEstates(pb.ListEstatesRequest(), acme())
    assert [estate.name for estate in listed.estates] == ["estates/acme"]


async def test_a_pool_is_updated_by_a_mask_that_names_settings() -> None:
    for paths in ([], ["name"], ["title", "counts"]):
        request = pb.UpdatePoolRequest(pool=pb.Pool(name="estates/acme/pools/west"))
        request.update_mask.paths.extend(paths)
        with pytest.raises(Refusal) as caught:
            await servicer("PoolService", Untouched()).UpdatePool(request, acme())
        assert (caught.value.reason, caught.value.field) == (Reason.INVALID_FIELD, "update_mask")
