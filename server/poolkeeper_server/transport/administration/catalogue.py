"""Estates, products and purchases."""

from poolkeeper.v1 import admin_pb2 as pb
from poolkeeper_server.domain import commands
from poolkeeper_server.domain.records import LicensedBy
from poolkeeper_server.domain.refusal import invalid
from poolkeeper_server.transport import conversion, names
from poolkeeper_server.transport.administration.servicer import AdminServicer, operator, origin, within
from poolkeeper_server.transport.fields import count_of, end_of, first_moment, page_of, units_of
from poolkeeper_server.transport.handlers import AdminCall
from poolkeeper_server.transport.texts import argument, text

_MOST_SEATS = 1_000_000_000
_MOST_PRODUCTS = 100
_LICENSED_BY = {
    pb.LICENSED_BY_CONCURRENT_USER: LicensedBy.CONCURRENT_USER,
    pb.LICENSED_BY_INSTALLED_INSTANCE: LicensedBy.INSTALLED_INSTANCE,
}


class EstateServicer(AdminServicer):
    """Customer accounts."""

    async def CreateEstate(self, request: pb.CreateEstateRequest, call: AdminCall) -> pb.Estate:
        """Makes an estate with its Default Pool."""
        operator(call)
        estate = names.new_id(request.estate_id, "estate_id")
        done = await self._ask.apply(
            commands.CreateEstate(
                **origin(call, request, request.request_id, estate=estate),
                title=text(request.title, "title", required=True),
                settings=commands.PoolSettings(),
                honey=(),
            )
        )
        return conversion.estate(await self._ask.estate(done.subject))

    async def GetEstate(self, request: pb.GetEstateRequest, call: AdminCall) -> pb.Estate:
        """One estate."""
        return conversion.estate(await self._ask.estate(within(call, names.read_estate(request.name, "name"))))

    async def ListEstates(self, request: pb.ListEstatesRequest, call: AdminCall) -> pb.ListEstatesResponse:
        """All estates that the token reaches."""
        if call.identity.estate:
            only = await self._ask.estate(call.identity.estate)
            return pb.ListEstatesResponse(estates=[conversion.estate(only)])
        page = await self._ask.estates(page_of(request.page_size, request.page_token))
        return pb.ListEstatesResponse(
            estates=[conversion.estate(found) for found in page.items], next_page_token=page.next_token
        )

    async def UnfreezeEstate(self, request: pb.UnfreezeEstateRequest, call: AdminCall) -> pb.Estate:
        """Ends the freeze of enrolments that a honey code caused."""
        estate = within(call, names.read_estate(request.name, "name"))
        await self._ask.apply(commands.UnfreezeEstate(**origin(call, request, request.request_id, estate=estate)))
        return conversion.estate(await self._ask.estate(estate))


class ProductServicer(AdminServicer):
    """The global catalogue."""

    async def CreateProduct(self, request: pb.CreateProductRequest, call: AdminCall) -> pb.Product:
        """Adds a product."""
        operator(call)
        done = await self._ask.apply(
            commands.CreateProduct(
                **origin(call, request, request.request_id),
                product_id=names.new_id(request.product_id, "product_id"),
                title=text(request.title, "title", required=True),
                units=units_of(request.units, "units"),
            )
        )
        return conversion.product(await self._ask.product(done.subject))

    async def GetProduct(self, request: pb.GetProductRequest, call: AdminCall) -> pb.Product:
        """One product."""
        del call
        return conversion.product(await self._ask.product(names.read_product(request.name, "name")))

    async def ListProducts(self, request: pb.ListProductsRequest, call: AdminCall) -> pb.ListProductsResponse:
        """The catalogue."""
        del call
        page = await self._ask.products(page_of(request.page_size, request.page_token))
        return pb.ListProductsResponse(
            products=[conversion.product(found) for found in page.items], next_page_token=page.next_token
        )


class LicenceServicer(AdminServicer):
    """Purchases."""

    async def AddLicence(self, request: pb.AddLicenceRequest, call: AdminCall) -> pb.Licence:
        """Adds a purchase to the Default Pool."""
        estate = within(call, names.read_estate(request.parent, "parent"))
        licensed_by = _LICENSED_BY.get(request.licensed_by)
        if licensed_by is None:
            raise invalid(
                "licensed_by", "licensed_by is not one that counts yet.", hint="CONCURRENT_USER or INSTALLED_INSTANCE."
            )
        first = first_moment(request.valid_from, "valid_from")
        end = end_of(request.valid_until, "valid_until")
        if first is not None and end is not None and end <= first:
            raise invalid("valid_until", "The last day of validity lies before the first.")
        count_of(len(request.products), "products", most=_MOST_PRODUCTS)
        products = dict.fromkeys(names.read_product(product, "products") for product in request.products)
        done = await self._ask.apply(
            commands.AddLicence(
                **origin(call, request, request.request_id, estate=estate),
                products=tuple(products),
                count=count_of(request.count, "count", most=_MOST_SEATS),
                licensed_by=licensed_by,
                order_number=argument(request.order_number, "order_number"),
                valid_from=first,
                valid_before=end,
            )
        )
        return conversion.licence(await self._ask.licence(estate, done.subject))

    async def GetLicence(self, request: pb.GetLicenceRequest, call: AdminCall) -> pb.Licence:
        """One licence."""
        licence = names.read_licence(request.name, "name")
        return conversion.licence(await self._ask.licence(within(call, licence.estate), licence.id))

    async def ListLicences(self, request: pb.ListLicencesRequest, call: AdminCall) -> pb.ListLicencesResponse:
        """An estate's licences."""
        estate = within(call, names.read_estate(request.parent, "parent"))
        page = await self._ask.licences(estate, page_of(request.page_size, request.page_token))
        return pb.ListLicencesResponse(
            licences=[conversion.licence(view) for view in page.items], next_page_token=page.next_token
        )
