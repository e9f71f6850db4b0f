"""Steps that several tests take: settings changed, sessions doubled, streams spoken on, waiters seen to queue up."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import grpc.aio
from google.protobuf import field_mask_pb2

from poolkeeper.v1 import admin_pb2, licensing_pb2
from tests.inprocess.installation import SECOND, SPANS, Installation, NodeClient, Refused, span

WEST = "estates/acme/pools/west"
#: The shortest lease there is: a seat comes back 8.5 seconds after its holder was last heard.
SHORT: dict[str, Any] = {"lease_duration": 6, "heartbeat_interval": 2, "margin": 2.5}
DAY = 86_400


async def update(installation: Installation, pool: str = WEST, **settings: Any) -> admin_pb2.Pool:
    """The pool with these settings changed; spans in seconds."""
    fields: dict[str, Any] = {name: span(value) if name in SPANS else value for name, value in settings.items()}
    found: admin_pb2.Pool = await installation.admin.pools.UpdatePool(
        admin_pb2.UpdatePoolRequest(
            pool=admin_pb2.Pool(name=pool, **fields), update_mask=field_mask_pb2.FieldMask(paths=list(settings))
        )
    )
    return found


async def move(installation: Installation, source: str, target: str, **lines: int) -> admin_pb2.MoveSeatsResponse:
    """Moves seats between pools of acme: `L000001=3`."""
    found: admin_pb2.MoveSeatsResponse = await installation.admin.pools.MoveSeats(
        admin_pb2.MoveSeatsRequest(
            source=f"estates/acme/pools/{source}",
            target=f"estates/acme/pools/{target}",
            moves=[admin_pb2.SeatMove(line=line, count=count) for line, count in lines.items()],
        )
    )
    return found


async def close_pool(installation: Installation, pool: str = WEST) -> None:
    """Closes a pool."""
    await installation.admin.pools.ClosePool(admin_pb2.ClosePoolRequest(name=pool))


async def named(node: NodeClient, *granted: licensing_pb2.Granted) -> licensing_pb2.HeartbeatResponse:
    """A heartbeat that knows these grants, and that the daemon agrees with."""
    found = await node.heartbeat(*granted)
    assert found.reconcile == 0
    return found


def knowing(as_of: int, *held: licensing_pb2.Granted, pending: tuple[str, ...] = ()) -> dict[str, Any]:
    """The field of a heartbeat that says what its client knows."""
    known = [licensing_pb2.KnownAllocation(allocation=one.allocation.name, quantity=one.quantity) for one in held]
    return {"known": licensing_pb2.KnownAllocations(as_of=as_of, allocations=known, pending_request_ids=pending)}


async def live_through(installation: Installation, seconds: float, *nodes: NodeClient) -> None:
    """Lets time pass as a daemon counts it that commits every second, and nobody calls."""
    await installation.stop()
    await installation.sql(f"UPDATE marks SET lease = lease + {round(seconds * SECOND)}")  # noqa: S608 - a number
    installation.time.pass_by(seconds)
    await installation.start()
    for node in nodes:
        node.channel = installation.channel
    await installation.daemon.housekeeping.tick()


async def release(installation: Installation, allocation: str, **fields: Any) -> licensing_pb2.Allocation:
    """An admin takes an allocation back."""
    found: licensing_pb2.Allocation = await installation.admin.allocations.ReleaseAllocation(
        admin_pb2.ReleaseAllocationRequest(name=allocation, reason="moved house", **fields)
    )
    return found


async def register(installation: Installation, consumer: str = "ann", **fields: str) -> None:
    """An admin registers a consumer of acme."""
    await installation.admin.consumers.CreateConsumer(
        admin_pb2.CreateConsumerRequest(parent="estates/acme", consumer=consumer, **fields)
    )


async def twin(node: NodeClient) -> NodeClient:
    """The same node with a second session; the first one stays open."""
    second = replace(node)
    await second.open()
    node.rolling_secret = second.rolling_secret
    return second


async def counts(installation: Installation, pool: str = WEST) -> tuple[int, int, int, int]:
    """Total, allocated, quarantined and available seats of a pool."""
    found = (await installation.pool(pool)).counts
    return (found.total, found.allocated_automatically, found.quarantined, found.available)


async def reason_of(call: Any) -> str:
    """Why a call is refused."""
    try:
        await call
    except Refused as refused:
        return refused.reason
    raise AssertionError("it was not refused")


async def queued(installation: Installation, count: int, pool: str = WEST) -> None:
    """Returns when so many check-outs wait in the pool."""
    for _ in range(1000):
        if (await installation.pool(pool)).waiting == count:
            return
    raise AssertionError(f"never were there {count} waiters")


async def taken(installation: Installation, count: int) -> None:
    """Returns when so many seats of the pool are taken."""
    for _ in range(1000):
        if (await counts(installation))[1] == count:
            return
    raise AssertionError(f"never were {count} seats taken")


async def unticked(installation: Installation, witness: NodeClient, seconds: int) -> None:
    """Lets time pass in which a witness keeps the store busy, but nothing that is due is ended by a tick."""
    for _ in range(seconds):
        installation.time.pass_by(1)
        await witness.heartbeat()


class Talk:
    """One side of a Connect stream: messages are numbered, answers found by their number, pushes kept apart."""

    def __init__(self, stream: Any, node: NodeClient) -> None:
        self._stream = stream
        self._node = node
        self._ids = itertools.count(1)
        self._aside: dict[int, list[licensing_pb2.ConnectResponse]] = {}

    async def send(self, **request: Any) -> int:
        """Sends a request; gives its number."""
        id_ = next(self._ids)
        await self._stream.write(licensing_pb2.ConnectRequest(id=id_, **request))
        return id_

    async def answer(self, id_: int) -> licensing_pb2.ConnectResponse:
        """The next answer to that request; 0 for the next push."""
        while not self._aside.get(id_):
            found = await asyncio.wait_for(self._stream.read(), timeout=10)
            assert found is not grpc.aio.EOF, "the stream has ended"
            self._aside.setdefault(found.id, []).append(found)
        return self._aside[id_].pop(0)

    async def ask(self, **request: Any) -> licensing_pb2.ConnectResponse:
        """The first answer to a request."""
        return await self.answer(await self.send(**request))

    async def wait_for(self, seconds: float, product: str = "encoder", **fields: Any) -> tuple[int, Any]:
        """Queues up; gives the number of the request and the first answer."""
        fields.setdefault("request_id", self._node.request_id())
        asked = licensing_pb2.CheckOutRequest(product=product, wait=span(seconds), **fields)
        id_ = await self.send(check_out=asked)
        return id_, await self.answer(id_)


@asynccontextmanager
async def talking(node: NodeClient) -> AsyncIterator[Talk]:
    """A Connect stream of the node's session."""
    async with node.stream() as stream:
        yield Talk(stream, node)


def refusal(answer: licensing_pb2.ConnectResponse) -> Refused:
    """The refusal that a stream's answer is."""
    assert answer.WhichOneof("response") == "error", answer
    return Refused(answer.error)
