"""A client process that speaks gRPC itself and keeps on: check-outs, heartbeats, check-ins, each until it is answered.

Whatever is not answered, or answered UNAVAILABLE, is sent again under the same request id. It is started with the
daemon's place in TRAFFIC (JSON), begins at "begin" with a session's credential, and at "finish" lets every caller come
to its end, keeps one seat, and says what it saw. Instants are of `tests.process.daemon.now`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from poolkeeper.v1 import licensing_pb2 as pb
from poolkeeper.v1 import licensing_pb2_grpc as rpc
from tests.process.daemon import PRODUCT, Daemon, Processes, now
from tests.process.holder import Told, commands, say

CALLERS: Final = 6
_BEAT: Final = 0.3
_AGAIN: Final = 0.02
_ATTEMPT: Final = 2.0
_REPEATED: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)


@dataclass
class Traffic:
    """A session's callers and what they saw."""

    stub: Any
    token: str
    name: str
    chance: random.Random
    finishing: asyncio.Event = field(default_factory=asyncio.Event)
    deadline: float = 0.0
    answers: list[Told] = field(default_factory=list)
    beliefs: list[Told] = field(default_factory=list)
    returns: list[Told] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    repeats: int = 0
    renewals: int = 0

    async def insist(self, method: str, request: Any) -> tuple[float, Any]:
        """When the request was sent that was answered, and the answer: a message, or the reason of a refusal."""
        while True:
            sent = now()
            try:
                return sent, await getattr(self.stub, method)(
                    request, timeout=_ATTEMPT, metadata=(("authorization", f"Bearer {self.token}"),)
                )
            except grpc.aio.AioRpcError as error:
                if error.code() not in _REPEATED:
                    return sent, reason_of(error)
            self.repeats += 1
            await asyncio.sleep(_AGAIN)

    async def beat(self) -> None:
        """Keeps the session; a refusal would be the end of all that it holds."""
        while not self.finishing.is_set():
            sent, answer = await self.insist("Heartbeat", pb.HeartbeatRequest())
            if isinstance(answer, str):
                self.refusals.append(f"heartbeat: {answer}")
                return
            self.renewals += 1
            self.deadline = sent + answer.remaining.ToMicroseconds() / 1e6
            self.token = answer.session_token or self.token
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.finishing.wait(), _BEAT)

    async def call(self, number: int) -> None:
        """One caller, again and again: asks for a seat, uses it, gives it back."""
        turn = 0
        # The first of them ends with a seat that it keeps, through all that is still to come.
        while number == 0 or not self.finishing.is_set():
            turn += 1
            request_id = f"{self.name}-{number}-{turn}"
            asked = now()
            sent, answer = await self.insist("CheckOut", pb.CheckOutRequest(request_id=request_id, product=PRODUCT))
            told = now()
            allocation = "" if isinstance(answer, str) else answer.granted.allocation.name
            self.answers.append({"request_id": request_id, "asked_at": asked, "sent_at": sent, "told_at": told})
            self.answers[-1]["allocation"] = allocation
            if isinstance(answer, str):
                if answer != "NO_SEAT_AVAILABLE":
                    self.refusals.append(f"{request_id}: {answer}")
                    return
                await asyncio.sleep(0.02 + 0.03 * self.chance.random())
                continue
            self.deadline = max(self.deadline, sent + answer.granted.remaining.ToMicroseconds() / 1e6)
            await asyncio.sleep(0.05 * self.chance.random())
            if self.finishing.is_set() and number == 0:
                self.beliefs.append({"allocation": allocation, "since": told, "until": self.deadline})
                return
            left = now()
            self.beliefs.append({"allocation": allocation, "since": told, "until": min(left, self.deadline)})
            _, back = await self.insist(
                "CheckIn", pb.CheckInRequest(request_id=f"{request_id}-in", allocation=allocation)
            )
            if isinstance(back, str):
                self.refusals.append(f"{request_id}-in: {back}")
            else:
                self.returns.append({"allocation": allocation, "sent_at": left, "told_at": now()})

    async def run(self) -> None:
        """Until it is told to finish."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.beat())
            for number in range(CALLERS):
                tasks.create_task(self.call(number))

    @property
    def saw(self) -> Told:
        """All that it was told and believed."""
        return {
            "answers": self.answers,
            "beliefs": self.beliefs,
            "returns": self.returns,
            "refusals": self.refusals,
            "repeats": self.repeats,
            "renewals": self.renewals,
        }


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """The reason of a refusal, or gRPC's own word."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type] # It has what is asked of it.
    for detail in () if status is None else status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info.reason
    return error.code().name


async def main() -> None:
    """Begins and ends as it is told."""
    given = json.loads(os.environ["TRAFFIC"])
    name = given["name"]
    daemon = Daemon(Path(given["data"]), Processes(), port=given["port"])
    async with daemon.channel() as channel, asyncio.TaskGroup() as tasks:
        traffic = Traffic(rpc.LicensingServiceStub(channel), "", name, random.Random(name))
        running: asyncio.Task[None] | None = None
        say("ready")
        async for told in commands():
            if told["do"] == "begin":
                traffic.token = told["token"]
                running = tasks.create_task(traffic.run())
                say("begun")
            elif told["do"] == "finish" and running is not None:
                traffic.finishing.set()
                await running
                say(traffic.saw)
            else:
                say({"answers": len(traffic.answers)})


if __name__ == "__main__":
    asyncio.run(main())
