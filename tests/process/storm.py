"""A client process that asks for thousands of seats over one stream, as fast as it can be told no.

It is started with the session's credential in STORM (JSON), and at "go" sends so many check-outs and says what came.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from google.rpc import error_details_pb2

from poolkeeper.v1 import licensing_pb2 as pb
from poolkeeper.v1 import licensing_pb2_grpc as rpc
from tests.process.daemon import PRODUCT, Daemon, Processes
from tests.process.holder import commands, say


def outcome(response: pb.ConnectResponse) -> str:
    """What a check-out on a stream was told: "granted", or the reason."""
    for detail in response.error.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info.reason
    return str(response.check_out.WhichOneof("result") or response.WhichOneof("response"))


async def storm(stream: Any, count: int) -> Counter[str]:
    """Sends so many check-outs without waiting; how often each outcome came."""

    async def send() -> None:
        for number in range(1, count + 1):
            request = pb.CheckOutRequest(request_id=f"storm-{number}", product=PRODUCT)
            await stream.write(pb.ConnectRequest(id=number, check_out=request))

    sending = asyncio.create_task(send())
    found = Counter([outcome(await stream.read()) for _ in range(count)])
    await sending
    return found


async def main() -> None:
    """Serves until the input ends."""
    given = json.loads(os.environ["STORM"])
    daemon = Daemon(Path(given["data"]), Processes(), port=given["port"])
    async with daemon.channel() as channel:
        stub: Any = rpc.LicensingServiceStub(channel)
        stream = stub.Connect(metadata=(("authorization", f"Bearer {given['token']}"),))
        say("ready")
        async for told in commands():
            say(await storm(stream, told["count"]))
        stream.cancel()


if __name__ == "__main__":
    asyncio.run(main())
