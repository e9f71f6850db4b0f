"""Pools, their seats, and their ledgers."""

from collections.abc import AsyncIterator, Iterable

from google.protobuf.duration_pb2 import Duration

from poolkeeper.v1 import admin_pb2 as pb
from poolkeeper.v1 import licensing_pb2
from poolkeeper_server.domain import commands
from poolkeeper_server.domain.records import CheckInReason, Counting, Entry
from poolkeeper_server.domain.refusal import Reason, Refusal, invalid
from poolkeeper_server.transport import conversion, names
from poolkeeper_server.transport.administration.servicer import AdminServicer, origin, within
from poolkeeper_server.transport.fields import count_of, page_of
from poolkeeper_server.transport.handlers import AdminCall
from poolkeeper_server.transport.names import Parent
from poolkeeper_server.transport.texts import text
from poolkeeper_server.transport.times import read_duration

_MOST_SEATS = 1_000_000_000
_MOST_MOVES = 1_000
_LONGEST_ETAG = 18
_COUNTINGS = {pb.Counting.Value(f"COUNTING_{counting}"): counting for counting in Counting}
_REASONS = {licensing_pb2.CheckInReason.Value(f"CHECK_IN_REASON_{reason}"): reason for reason in CheckInReason}
_SETTINGS = (
    "title",
    "minimum_allocation",
    "lease_duration",
    "heartbeat_interval",
    "margin",
    "counting",
    "skip_quarantine",
    "reclaim_after",
    "continuation",
)


class PoolServicer(AdminServicer):
    """Where licences are drawn from."""

    async def CreatePool(self, request: pb.CreatePoolRequest, call: AdminCall) -> pb.Pool:
        """Makes a pool and moves seats into it, all in one step."""
        estate = within(call, names.read_estate(request.parent, "parent"))
        given = [path for path in _SETTINGS if _is_given(request.pool, path)]
        done = await self._ask.apply(
            commands.CreatePool(
                **origin(call, request, request.request_id, estate=estate),
                pool_id=names.new_id(request.pool_id, "pool_id"),
                settings=_settings(request.pool, given),
                moves=_moves(request.moves),
            )
        )
        return conversion.pool(await self._ask.pool(estate, done.subject))

    async def GetPool(self, request: pb.GetPoolRequest, call: AdminCall) -> pb.Pool:
        """One pool."""
        return await self._pool(_pool_of(call, request.name, "name"))

    async def ListPools(self, request: pb.ListPoolsRequest, call: AdminCall) -> pb.ListPoolsResponse:
        """An estate's pools."""
        estate = within(call, names.read_estate(request.parent, "parent"))
        page = await self._ask.pools(estate, page_of(request.page_size, request.page_token))
        return pb.ListPoolsResponse(
            pools=[conversion.pool(view) for view in page.items], next_page_token=page.next_token
        )

    async def UpdatePool(self, request: pb.UpdatePoolRequest, call: AdminCall) -> pb.Pool:
        """Changes the settings that the mask names."""
        pool = _pool_of(call, request.pool.name, "pool.name")
        paths = list(request.update_mask.paths)
        unknown = [path for path in paths if path not in _SETTINGS]
        if unknown or not paths:
            what = "names what is no setting" if unknown else "is empty"
            raise invalid("update_mask", f"update_mask {what}.", hint=f"It may name {', '.join(_SETTINGS)}.")
        await self._ask.apply(
            commands.UpdatePool(
                **origin(call, request, request.request_id, estate=pool.estate),
                pool_id=pool.pool,
                settings=_settings(request.pool, paths),
                version=_version(request.pool.etag),
            )
        )
        return await self._pool(pool)

    async def MoveSeats(self, request: pb.MoveSeatsRequest, call: AdminCall) -> pb.MoveSeatsResponse:
        """Moves unused seats between two pools of one estate."""
        source, target = _pool_of(call, request.source, "source"), _pool_of(call, request.target, "target")
        if source.estate != target.estate or source == target:
            raise invalid("target", "Source and target must be two pools of one estate.")
        count_of(len(request.moves), "moves", most=_MOST_MOVES)
        await self._ask.apply(
            commands.MoveSeats(
                **origin(call, request, request.request_id, estate=source.estate),
                source_id=source.pool,
                target_id=target.pool,
                moves=_moves(request.moves),
            )
        )
        return pb.MoveSeatsResponse(source=await self._pool(source), target=await self._pool(target))

    async def ClosePool(self, request: pb.ClosePoolRequest, call: AdminCall) -> pb.Pool:
        """Ends a pool's giving."""
        pool = _pool_of(call, request.name, "name")
        await self._ask.apply(
            commands.ClosePool(
                **origin(call, request, request.request_id, estate=pool.estate),
                pool_id=pool.pool,
                version=_version(request.etag),
            )
        )
        return await self._pool(pool)

    async def UnfreezePool(self, request: pb.UnfreezePoolRequest, call: AdminCall) -> pb.Pool:
        """Ends the freeze that failed enrolments caused."""
        pool = _pool_of(call, request.name, "name")
        await self._ask.apply(
            commands.UnfreezePool(**origin(call, request, request.request_id, estate=pool.estate), pool_id=pool.pool)
        )
        return await self._pool(pool)

    async def _pool(self, pool: Parent) -> pb.Pool:
        return conversion.pool(await self._ask.pool(pool.estate, pool.pool))


class LedgerServicer(AdminServicer):
    """The record of every change of seats in a pool."""

    async def ListEntries(self, request: pb.ListEntriesRequest, call: AdminCall) -> pb.ListEntriesResponse:
        """A pool's entries, oldest first unless told otherwise."""
        pool = _pool_of(call, request.parent, "parent")
        page = await self._ask.entries(
            pool.estate,
            pool.pool,
            page_of(request.page_size, request.page_token),
            newest_first=request.newest_first,
        )
        return pb.ListEntriesResponse(
            entries=[conversion.entry(found) for found in page.items], next_page_token=page.next_token
        )

    async def ExportLedger(
        self, request: pb.ExportLedgerRequest, call: AdminCall
    ) -> AsyncIterator[pb.ExportLedgerResponse]:
        """The whole ledger, its checkpoints, and last a head signed now."""
        pool = _pool_of(call, request.name, "name")
        async for item in self._ask.export(pool.estate, pool.pool):
            if isinstance(item, Entry):
                yield pb.ExportLedgerResponse(entry=conversion.entry(item))
            else:
                yield pb.ExportLedgerResponse(statement=conversion.statement(item))


def _pool_of(call: AdminCall, name: str, field: str) -> Parent:
    pool = names.read_pool(name, field)
    within(call, pool.estate)
    return pool


def _moves(moves: Iterable[pb.SeatMove]) -> tuple[commands.Move, ...]:
    return tuple(
        commands.Move(
            line=text(move.line, "moves.line", required=True),
            count=count_of(move.count, "moves.count", most=_MOST_SEATS),
        )
        for move in moves
    )


def _is_given(pool: pb.Pool, path: str) -> bool:
    return any(field.name == path for field, _ in pool.ListFields())


def _settings(pool: pb.Pool, paths: list[str]) -> commands.PoolSettings:
    """The settings that `paths` names; a span that is named and unset is 0."""

    def span(path: str, value: Duration) -> int | None:
        return read_duration(value, f"pool.{path}") if path in paths else None

    return commands.PoolSettings(
        title=text(pool.title, "pool.title", required=True) if "title" in paths else None,
        minimum_allocation=span("minimum_allocation", pool.minimum_allocation),
        lease_duration=span("lease_duration", pool.lease_duration),
        heartbeat_interval=span("heartbeat_interval", pool.heartbeat_interval),
        margin=span("margin", pool.margin),
        counting=_counting(pool) if "counting" in paths else None,
        skip_quarantine=_skipped(pool) if "skip_quarantine" in paths else None,
        reclaim_after=span("reclaim_after", pool.reclaim_after),
        continuation=span("continuation", pool.continuation),
    )


def _counting(pool: pb.Pool) -> Counting:
    found = _COUNTINGS.get(pool.counting)
    if found is None:
        raise invalid("pool.counting", "counting is not one that is known.", hint=f"One of {', '.join(Counting)}.")
    return found


def _skipped(pool: pb.Pool) -> tuple[str, ...]:
    found = {_REASONS.get(reason) for reason in pool.skip_quarantine}
    if None in found:
        raise invalid(
            "pool.skip_quarantine", "A reason is not one that is known.", hint=f"Some of {', '.join(CheckInReason)}."
        )
    return tuple(reason.value for reason in CheckInReason if reason in found)


def _version(etag: str) -> int | None:
    if etag and not (len(etag) <= _LONGEST_ETAG and etag.isascii() and etag.isdigit()):
        raise Refusal(Reason.ETAG_MISMATCH, "The etag is not one that was given out.", hint="Read the pool again.")
    return int(etag) if etag else None
