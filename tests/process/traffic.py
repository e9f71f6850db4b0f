"""A client process that speaks gRPC itself and keeps on: check-outs, heartbeats, check-ins, each until it is answered.

Whatever is not answered, or answered UNAVAILABLE, is sent again under the same request id; now and then also what was
answered. It is started with TRAFFIC (JSON): the daemon's place, its node's name, and the journal that it keeps. At
"begin" it redeems a code and opens a session, whose keeper takes a seat and holds it; when a session is lost it opens
the next. At "finish" its callers come to their end, and only the keeper's seat is still held and renewed.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from poolkeeper.v1 import licensing_pb2 as pb
from tests.inprocess.installation import NodeClient, Refused
from tests.process.daemon import PRODUCT, Daemon, Processes, now
from tests.process.history import Asked, Granted, Left, Lost, Renewed, Returned
from tests.process.history import Refused as RefusedEvent
from tests.process.holder import Told, commands, say
from tests.process.journal import Journal, short

CALLERS: Final = 5
_BEAT: Final = 0.3
_AGAIN: Final = 0.05
#: Twice as long every time, but no longer than this: clients must not keep a daemon from starting.
_LONGEST: Final = 0.4
_ATTEMPT: Final = 2.0
_REPEATED: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)


@dataclass(frozen=True, slots=True)
class Refusal:
    """The reason of a refusal, or gRPC's own word."""

    reason: str


@dataclass(slots=True)
class Session:
    """One session of the node, until it is over."""

    name: str
    token: str
    over: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class Traffic:
    """A node's callers, one session after the other."""

    node: NodeClient
    name: str
    journal: Journal
    products: list[str]
    consumer: str
    chance: random.Random
    finishing: asyncio.Event = field(default_factory=asyncio.Event)
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    repeats: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    kept: str = ""

    async def insist(self, session: Session, method: str, request: Any) -> tuple[float, float, Any]:
        """When the request was sent that was answered, when that was, and the answer: a message or a Refusal."""
        pause = _AGAIN
        while True:
            sent = now()
            try:
                answer = await getattr(self.node.stub, method)(
                    request, timeout=_ATTEMPT, metadata=(("authorization", f"Bearer {session.token}"),)
                )
            except grpc.aio.AioRpcError as error:
                if error.code() not in _REPEATED:
                    return sent, now(), Refusal(reason_of(error))
                self.repeats[reason_of(error)] += 1
                await asyncio.sleep(pause * (0.5 + self.chance.random()))
                pause = min(2 * pause, _LONGEST)
            else:
                return sent, now(), answer

    async def open(self, number: int) -> Session:
        """The node's next session."""
        while True:
            try:
                async with asyncio.timeout(_ATTEMPT):
                    await self.node.open()
            except (TimeoutError, Refused) as error:
                if isinstance(error, Refused) and error.status.code != grpc.StatusCode.UNAVAILABLE.value[0]:
                    raise
                await asyncio.sleep(_AGAIN)
            else:
                return Session(f"{self.name}/{number}", self.node.token)

    async def run(self, pool: str, code: str) -> None:
        """Until this process ends."""
        await self.node.enrol(pool, code)
        number = 0
        while not self.finished.is_set():
            number += 1
            session = await self.open(number)
            async with asyncio.TaskGroup() as tasks:
                beating = tasks.create_task(self.beat(session))
                await asyncio.gather(self.keep(session), *(self.call(session, one) for one in range(CALLERS)))
                if self.finishing.is_set():
                    self.finished.set()
                await beating

    async def beat(self, session: Session) -> None:
        """Renews the session until it is over."""
        while not session.over.is_set():
            sent, told, answer = await self.insist(session, "Heartbeat", pb.HeartbeatRequest())
            if isinstance(answer, Refusal):
                self.lose(session, answer, told)
                return
            self.outcomes["renewed"] += 1
            until = sent + answer.remaining.ToMicroseconds() / 1e6
            self.journal.write(Renewed(session=session.name, sent=sent, told=told, until=until))
            session.token = answer.session_token or session.token
            await asyncio.sleep(_BEAT)

    def lose(self, session: Session, refusal: Refusal, told: float) -> None:
        """The session is over, and with it all that it held."""
        self.outcomes[refusal.reason] += 1
        if not session.over.is_set():
            self.journal.write(Lost(session=session.name, told=told, reason=refusal.reason))
            session.over.set()

    async def keep(self, session: Session) -> None:
        """Takes a seat as soon as there is one, and holds it through all that comes."""
        turn = 0
        while not session.over.is_set():
            turn += 1
            granted = await self.take(session, f"{session.name}-keeper-{turn}", PRODUCT, 1, "")
            if granted is not None:
                self.kept = granted.allocation.name
                self.begun.set()
                return
            await asyncio.sleep(0.02)

    async def call(self, session: Session, number: int) -> None:
        """One caller, again and again: asks for a seat, uses it, gives it back."""
        await self.begun.wait()
        turn = 0
        while not self.finishing.is_set() and not session.over.is_set():
            turn += 1
            request_id = f"{session.name}-{number}-{turn}"
            product = self.chance.choice(self.products)
            # The second one asks for what others of the estate share.
            consumer = self.consumer if number == 1 and product == PRODUCT else ""
            seats = 1 if consumer else self.chance.choice((1, 1, 2))
            granted = await self.take(session, request_id, product, seats, consumer)
            if granted is None:
                await asyncio.sleep(0.02 + 0.03 * self.chance.random())
                continue
            await asyncio.sleep(0.05 * self.chance.random())
            await self.give_back(session, f"{request_id}-in", granted.allocation.name)

    def rarely(self) -> bool:
        """Once in ten times."""
        return self.chance.random() < 0.1

    async def take(self, session: Session, request_id: str, product: str, seats: int, consumer: str) -> Any:
        """A check-out; None when it is refused."""
        request = pb.CheckOutRequest(request_id=request_id, product=product, quantity=seats, consumer=consumer)
        self.journal.write(Asked(session=session.name, request_id=request_id, at=now()))
        while True:
            sent, told, answer = await self.insist(session, "CheckOut", request)
            if isinstance(answer, Refusal):
                self.outcomes[answer.reason] += 1
                self.journal.write(
                    RefusedEvent(
                        session=session.name,
                        request_id=request_id,
                        sent=sent,
                        told=told,
                        reason=answer.reason,
                        seats=seats,
                        product=product,
                    )
                )
                if answer.reason == "LEASE_EXPIRED":
                    self.lose(session, answer, told)
                return None
            granted = answer.granted
            self.outcomes["granted"] += 1
            self.journal.write(
                Granted(
                    session=session.name,
                    request_id=request_id,
                    sent=sent,
                    told=told,
                    until=sent + granted.remaining.ToMicroseconds() / 1e6,
                    allocation=granted.allocation.name,
                    lines={short(line.licence): line.quantity for line in granted.allocation.lines},
                    shared=bool(consumer),
                )
            )
            # Who asks again though it was answered hears the same.
            if not self.rarely():
                return granted

    async def give_back(self, session: Session, request_id: str, allocation: str) -> None:
        """A check-in."""
        self.journal.write(Left(session=session.name, allocation=allocation, at=now()))
        request = pb.CheckInRequest(request_id=request_id, allocation=allocation)
        while True:
            sent, told, answer = await self.insist(session, "CheckIn", request)
            if isinstance(answer, Refusal):
                self.outcomes[answer.reason] += 1
                self.journal.write(Lost(session=session.name, told=told, reason=answer.reason, allocation=allocation))
                return
            self.outcomes["returned"] += 1
            self.journal.write(
                Returned(session=session.name, request_id=request_id, sent=sent, told=told, allocation=allocation)
            )
            if not self.rarely():
                return

    @property
    def saw(self) -> Told:
        """What came of all that it sent so far, what was sent again and why, and the seat that it keeps."""
        return {"outcomes": self.outcomes, "repeats": self.repeats, "kept": self.kept}


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """The reason of a refusal, or gRPC's own word."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type] # It has what is asked of it.
    for detail in () if status is None else status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info.reason
    return error.code().name


async def serve(given: Told) -> None:
    """Begins and ends as it is told."""
    name = given["name"]
    first, *others = given["ports"]
    daemon = Daemon(Path(given["data"]), Processes(), port=first)
    async with daemon.channel(*others) as channel, asyncio.TaskGroup() as tasks:
        traffic = Traffic(
            node=NodeClient(channel),
            name=name,
            journal=Journal(Path(given["journal"])),
            products=given["products"],
            consumer=given["consumer"],
            chance=random.Random(name),
        )
        say("ready")
        async for command in commands():
            match command["do"]:
                case "begin":
                    tasks.create_task(traffic.run(command["pool"], command["code"]))
                    await traffic.begun.wait()
                case "finish":
                    traffic.finishing.set()
                    await traffic.finished.wait()
            say(traffic.saw)


if __name__ == "__main__":
    asyncio.run(serve(json.loads(os.environ["TRAFFIC"])))
