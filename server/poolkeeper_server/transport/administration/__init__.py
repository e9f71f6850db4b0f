"""The admin API, a servicer for each of its services."""

from poolkeeper.v1 import admin_pb2
from poolkeeper_server.services.contract import Administration
from poolkeeper_server.transport.administration.catalogue import EstateServicer, LicenceServicer, ProductServicer
from poolkeeper_server.transport.administration.installation import (
    AlertServicer,
    AllocationServicer,
    ClockServicer,
    TokenServicer,
)
from poolkeeper_server.transport.administration.nodes import CodeServicer, ConsumerServicer, NodeServicer
from poolkeeper_server.transport.administration.pools import LedgerServicer, PoolServicer
from poolkeeper_server.transport.handlers import Access, Binding

_SERVICERS = {
    "EstateService": EstateServicer,
    "ProductService": ProductServicer,
    "LicenceService": LicenceServicer,
    "PoolService": PoolServicer,
    "CodeService": CodeServicer,
    "NodeService": NodeServicer,
    "ConsumerService": ConsumerServicer,
    "AllocationService": AllocationServicer,
    "LedgerService": LedgerServicer,
    "ClockService": ClockServicer,
    "TokenService": TokenServicer,
    "AlertService": AlertServicer,
}


def admin_bindings(administration: Administration) -> list[Binding]:
    """Every admin service, ready to be served. Raises KeyError for a service that the table forgot."""
    return [
        Binding(service, _SERVICERS[name](administration), Access.ADMIN)
        for name, service in admin_pb2.DESCRIPTOR.services_by_name.items()
    ]
