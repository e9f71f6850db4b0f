"""What everybody would begin with: a bare grpc.aio server on uvloop that does nothing.

`python -m tests.bench.noop FILE BYTES SERVERS` answers a call with so many bytes and a stream with what it hears, in
plain gRPC on loopback, and writes its port to the file. It is one server, or several that share the port.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import grpc
import grpc.aio
import uvloop


def handlers(size: int) -> grpc.GenericRpcHandler:
    """The two methods, which neither parse nor serialise."""
    answer = bytes(size)

    async def call(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        del request, context
        return answer

    async def echo(requests: object, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        del requests
        while True:
            message: object = await context.read()
            if not isinstance(message, bytes):
                return
            await context.write(message)

    return grpc.method_handlers_generic_handler(
        "bench.Floor",
        {"Call": grpc.unary_unary_rpc_method_handler(call), "Echo": grpc.stream_stream_rpc_method_handler(echo)},
    )


async def serve(ready: Path, size: int, count: int) -> None:
    """Serves until the process is killed."""
    servers = [grpc.aio.server(options=(("grpc.so_reuseport", int(count > 1)),)) for _ in range(count)]
    port = 0
    for server in servers:
        server.add_generic_rpc_handlers((handlers(size),))
        port = server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
    draft = ready.with_suffix(".new")
    draft.write_text(str(port))
    draft.replace(ready)
    await asyncio.gather(*(server.wait_for_termination() for server in servers))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
